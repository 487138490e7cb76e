"""Segments of several models in one database: a reader sees those of the model in force, and never half of anything."""

import numpy as np
import pytest
from tests.attack.storekit import MODEL, add_clip, vectors
from tests.support.homes import new_database

from earmark_client.store import connection, schema
from earmark_client.store.database import ClipRow, Database
from earmark_shared.errors import NotInLibraryError

KEY = b"k" * 32
OTHER = "other-0123456789ab"


@pytest.fixture
def database(tmp_path):
    with new_database(tmp_path, key=KEY) as opened:
        with opened.transaction():
            add_clip(opened, 0)
            add_clip(opened, 1)
        yield opened


def add_beside(database, clip_id, count, start=0):
    starts = [2.0 * (start + at) for at in range(count)]
    return database.add_segments(
        [clip_id] * count,
        starts,
        [at + 2.0 for at in starts],
        model_version=OTHER,
        vectors={"text": vectors(8, count)},
        beside=True,
    )


def test_what_is_made_beside_is_seen_by_nobody_until_it_is_whole(database):
    before, counts = database.segments(), database.counts()
    with database.transaction():
        add_beside(database, 1, 3)
    assert database.segments().ids.tolist() == before.ids.tolist()
    assert list(database.blocks("text", OTHER)) == []
    assert database.described_until_s(1, OTHER) == 6.0
    assert database.counts() == counts
    with database.transaction():
        database.finish_describing(1, OTHER)
    assert database.segments().ids.tolist() == before.ids.tolist()
    assert len(database.segments(OTHER).ids) == 3
    assert database.is_described(1, OTHER) and not database.is_described(2, OTHER)
    assert database.unheard(OTHER) == 1


def test_one_value_changes_what_every_reader_sees(database):
    with database.transaction():
        added = add_beside(database, 1, 3)
        database.finish_describing(1, OTHER)
    base = database.segments().ids.tolist()
    with database.transaction():
        database.set_model_in_force(OTHER)
    assert database.model_in_force() == OTHER
    assert database.segments().ids.tolist() == added.tolist()
    assert database.segments_of(1).ids.tolist() == added.tolist()
    assert len(database.segments_of(2).ids) == 0
    assert database.counts().segments == 3
    with database.transaction():
        database.set_model_in_force(MODEL)
    assert database.segments().ids.tolist() == base


def test_what_was_begun_and_a_whole_model_can_be_forgotten(database):
    base = database.segments().ids.tolist()
    with database.transaction():
        add_beside(database, 1, 3)
        add_beside(database, 2, 2)
        database.forget_described(1, OTHER)
    assert database.described_until_s(1, OTHER) == 0.0
    assert len(database.vector_ids("text", OTHER)) == 2
    with database.transaction():
        database.finish_describing(2, OTHER)
        database.forget_model(OTHER)
    assert database.model_versions() == [MODEL]
    assert OTHER not in database.all_models()
    assert database.segments().ids.tolist() == base
    database.verify()


def test_a_removed_clip_leaves_nothing_of_any_model(database):
    with database.transaction():
        add_beside(database, 1, 3)
        database.finish_describing(1, OTHER)
        add_beside(database, 2, 3)
        database.remove_clip(1)
        database.remove_clip(2)
    assert len(database.vector_ids("text", OTHER)) == len(database.vector_ids("text", MODEL)) == 0
    assert database._one("SELECT count(*) FROM all_segments")[0] == 0
    assert database._one("SELECT count(*) FROM described")[0] == 0
    with pytest.raises(NotInLibraryError):
        database.clip(1)


def test_a_library_from_before_there_were_several_opens_with_all_it_held(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "migrate", lambda raw: schema.migrate(raw, schema.MIGRATIONS[:4]))
    with Database.create(tmp_path / "old.db", KEY) as old, old.transaction():
        for number, state in enumerate(("ready", "ready", "pending"), 1):
            old.insert_clip(ClipRow(f"sha{number}", 1.0, 8000, 1, 9, 1.0, 2.0, MODEL), f"/sounds/{number}.wav")
            old._write("UPDATE clips SET state = ? WHERE id = ?", (state, number))
            for start in range(4):
                old._write("INSERT INTO segments (clip_id, start_s, end_s) VALUES (?, ?, ?)", (number, start, start + 1))
        old._write("INSERT INTO corrections (clip_id, segment_id, name, is_present, created_at_s) VALUES (1, 2, 'dog', 1, 0)", ())
    monkeypatch.undo()
    with Database.open(tmp_path / "old.db", KEY) as opened:
        assert opened.model_in_force() == MODEL
        assert opened.segments().ids.tolist() == list(range(1, 9))
        assert opened.described_clips(MODEL) == {1, 2}
        assert [one.segment_id for one in opened.corrections()] == [2]
        with opened.transaction():
            ids = opened.add_segments([1], [9.0], [10.0], model_version=MODEL, vectors={"text": vectors(8, 1)})
            opened.remove_clip(2)
        assert ids.tolist() == [13]
        assert opened.segments().ids.tolist() == [1, 2, 3, 4, 13]
        assert np.all(opened.segments().clip_ids == 1)
        with opened.transaction():
            opened.remove_clip(1)
        assert opened.corrections() == []
        opened.verify()
