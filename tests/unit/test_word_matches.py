"""Which clips' names hold a query's words, also where a word stands in nearly every name."""

import pytest
from tests.support.homes import new_database

from earmark_client.asking import word_matches
from earmark_client.records import Correction
from earmark_client.store.database import ClipRow, Database

NAMES = ["holiday dog", "holiday cat", "holiday rain", "violin", "holiday garden violin", "holiday violin"]


@pytest.fixture
def database(tmp_path):
    with new_database(tmp_path) as database:
        with database.transaction():
            for number, name in enumerate(NAMES):
                clip_id = database.insert_clip(ClipRow(f"{number:064d}", 1.0, 16_000, 1, 100, 0.0, 0.0, "m"), f"/{number}")
                database.finish_clip(clip_id, duration_s=1.0, names=name)
                database.set_labels(clip_id, [("zebra", 0.9)], model_version="m")
            database.add_correction(Correction(4, None, "garden party", True), now_s=1.0)
        yield database


def test_share_of_the_words(database):
    assert word_matches(database, "a holiday with a violin", 100) == {1: 0.5, 2: 0.5, 3: 0.5, 4: 0.5, 5: 1.0, 6: 1.0}


def test_fewer_than_half_of_the_words_are_no_match(database):
    assert word_matches(database, "holiday with a violin in the garden", 100) == {4: 2 / 3, 5: 1.0, 6: 2 / 3}


def test_peoples_labels_count_and_the_models_do_not(database):
    assert word_matches(database, "party", 100) == {4: 1.0}
    assert word_matches(database, "zebra", 100) == {}


def test_what_every_sound_is_called_is_no_word_of_a_query(database):
    assert word_matches(database, "the sound of a recording of rain", 100) == {3: 1.0}


def test_no_words_no_match(database):
    assert word_matches(database, "of the", 100) == {}
    assert word_matches(database, "\x00", 100) == {}


def test_a_common_word_hides_no_clip_that_has_the_other_words_too(database):
    found = word_matches(database, "violin holiday", 3)
    assert {clip: share for clip, share in found.items() if share == 1.0} == {5: 1.0, 6: 1.0}


def test_without_the_second_look_a_common_word_hides_them(database, monkeypatch):
    plain = Database.search_words

    def once(self, text, limit, *, also=()):
        return [] if also else plain(self, text, limit)

    monkeypatch.setattr(Database, "search_words", once)
    assert word_matches(database, "violin holiday", 3)[6] == 0.5
