"""The first walk: sound files in, findable moments out, through `Library` alone."""

import os
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from earmark_client import ingest, teaching
from earmark_client import library as library_module
from earmark_client.asking import make_target
from earmark_client.library import Library
from earmark_client.records import Correction, Query, Removal
from earmark_client.store.keys import KeyFile
from earmark_shared.errors import AudioError, NotInLibraryError, SettingsError
from tests.soundmaker import chirp, clicks, noise, tone, write_sound
from tests.support.homes import open_library


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A folder of short sounds, two of each kind, in several containers."""
    folder = tmp_path_factory.mktemp("sounds")
    write_sound(folder, "hum low", tone(4, 220))
    write_sound(folder, "hum high", tone(4, 230), container="flac")
    write_sound(folder, "clock one", clicks(4), container="ogg")
    write_sound(folder, "clock two", clicks(4, every_s=0.26))
    (folder / "wind").mkdir()
    write_sound(folder / "wind", "storm", noise(4, seed=1))
    write_sound(folder / "wind", "gale", noise(4, seed=2, rate_hz=48_000), container="opus", rate_hz=48_000)
    write_sound(folder, "siren", chirp(3))
    return folder


@pytest.fixture(scope="module")
def filled(sounds, tmp_path_factory):
    """A home of that folder; closed. Tests that change a library get a copy of it."""
    folder = tmp_path_factory.mktemp("filled")
    with Library.create(folder / "home", unlock=KeyFile(folder / "key")) as library:
        library.add([sounds])
    return folder


@pytest.fixture(scope="module")
def stocked(filled, tmp_path_factory):
    """A library of that folder, shared by the tests that only read."""
    folder = tmp_path_factory.mktemp("stocked") / "copy"
    shutil.copytree(filled, folder)
    with open_library(folder) as library:
        yield library


def test_every_file_becomes_a_clip_and_silence_is_no_segment(stocked):
    status = stocked.status()
    assert (status.clips, status.pending) == (7, 0)
    assert status.segments > 40
    assert status.sound_s == pytest.approx(27, abs=0.1)


def test_an_example_finds_its_like_first(stocked, sounds):
    for name, like in (("hum low.wav", "hum high.flac"), ("clock two.wav", "clock one.ogg")):
        hits = stocked.search(Query(like=sounds / name, limit=None, min_score=0.0)).hits
        names = list(dict.fromkeys(Path(hit.path).name for hit in hits))
        assert names[:2] == [name, like]


def test_one_second_of_an_example_is_enough(stocked, sounds):
    answer = stocked.search(Query(like=sounds / "siren.wav", at_s=1.5, limit=1, min_score=0.0))
    assert Path(answer.hits[0].path).name == "siren.wav"


def test_scores_are_probabilities_in_descending_order(stocked):
    hits = stocked.search(Query(text="wind", limit=None, min_score=0.0)).hits
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert all(0.0 <= score <= 1.0 for score in scores)
    assert all(0.0 <= hit.start_s <= hit.peak_s < hit.end_s for hit in hits)
    assert {Path(hit.path).name for hit in hits} == {
        "hum low.wav", "hum high.flac", "clock one.ogg", "clock two.wav", "storm.wav", "gale.opus", "siren.wav"}  # fmt: skip


def test_nothing_found_names_the_nearest_miss(stocked):
    answer = stocked.search(Query(text="a baby crying"))
    assert answer.hits == ()
    assert answer.nearest_miss is not None
    assert answer.nearest_miss.score < 0.5


def test_words_of_a_file_name_count(stocked):
    with_words = stocked.search(Query(text="gale", limit=1, min_score=0.0)).hits[0]
    assert Path(with_words.path).name == "gale.opus"
    assert any(part.source == "words" for part in with_words.why)


def test_filters_leave_only_what_they_name(stocked, sounds):
    inside = stocked.search(Query(text="noise", folder=str(sounds / "wind"), limit=None, min_score=0.0)).hits
    assert {Path(hit.path).parent.name for hit in inside} == {"wind"}
    assert stocked.search(Query(text="noise", before_s=1.0, min_score=0.0)).hits == ()


def test_what_is_not_wanted_sinks(stocked, sounds):
    asked = {"like": sounds / "wind" / "storm.wav", "limit": None, "min_score": 0.0}
    plain = {(hit.path, hit.segment_id): hit.score for hit in stocked.search(Query(**asked)).hits}
    without = stocked.search(Query(exclude=("white noise", "wind"), **asked)).hits
    storm = next(hit for hit in without if hit.path.endswith("storm.wav"))
    assert storm.score < max(score for (path, _), score in plain.items() if path == storm.path)
    assert any(part.source == "not" for part in storm.why)


def test_a_query_that_asks_for_nothing_is_refused(stocked):
    with pytest.raises(SettingsError):
        stocked.search(Query())


def test_a_second_beyond_the_example_is_an_error(stocked, sounds):
    with pytest.raises(AudioError, match="nothing to hear"):
        stocked.search(Query(like=sounds / "siren.wav", at_s=60.0))


def test_a_repeated_file_costs_nothing_and_a_moved_one_keeps_its_clip(library, sounds, tmp_path):
    again = library.add([sounds])
    assert (again.added, again.known) == (0, 7)
    copy = tmp_path / "copy.wav"
    shutil.copy(sounds / "siren.wav", copy)
    assert library.add([copy]).known == 1
    moved = tmp_path / "moved.wav"
    copy.rename(moved)
    assert library.add([moved]).moved == 1
    assert set(library.clip(str(moved)).paths) == {str(sounds / "siren.wav"), str(moved)}
    hit = library.search(Query(text="moved", limit=1, min_score=0.0)).hits[0]
    assert {"moved.wav", "siren.wav"} == set(
        next(part.detail for part in hit.why if part.source == "words").rpartition(": ")[2].split(", ")
    )


def test_a_folder_named_from_within_is_the_folder(library, sounds, monkeypatch):
    monkeypatch.chdir(sounds / "wind")
    assert library.add([Path("..")]).known == 7
    assert all(len(clip.paths) == 1 and ".." not in Path(clip.paths[0]).parts for clip in library.clips())


def test_two_names_of_one_content_in_one_add_are_one_clip(tmp_path):
    write_sound(tmp_path, "a", tone(2))
    shutil.copy(tmp_path / "a.wav", tmp_path / "b.wav")
    with Library.create(tmp_path / "home", unlock=KeyFile(tmp_path / "key")) as library:
        report = library.add([tmp_path / "a.wav", tmp_path / "b.wav"])
        assert (report.added, report.known, library.status().clips) == (1, 1, 1)
        assert len(library.clips()[0].paths) == 2


def test_no_more_decoders_are_started_than_there_are_files(tmp_path, monkeypatch):
    started = []

    class Counted(ingest.Decoder):
        def __enter__(self):
            started.append(self)
            return super().__enter__()

    monkeypatch.setattr(ingest, "Decoder", Counted)
    with Library.create(tmp_path / "home", unlock=KeyFile(tmp_path / "key")) as library:
        assert library.add([write_sound(tmp_path, "one", tone(2))], jobs=3).added == 1
        assert len(started) == 1
        assert (
            library.add([write_sound(tmp_path, f"more{number}", tone(2, 300 + number)) for number in range(4)], jobs=3).added == 4
        )
        assert len(started) == 1 + 3


def test_bad_files_are_named_and_the_others_go_on(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_sound(folder, "good", tone(2))
    (folder / "text.wav").write_text("this is no sound")
    whole = write_sound(folder, "cut", noise(70)).read_bytes()  # half of it fills a batch, which is taken back
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    os.mkfifo(folder / "pipe.wav")
    with Library.create(tmp_path / "home", unlock=KeyFile(tmp_path / "key")) as library:
        report = library.add([folder])
        assert report.added == 1
        assert {Path(path).name for path, _ in report.problems} == {"text.wav", "cut.wav", "pipe.wav"}
        assert all(error.exit_code == 20 and error.hint for _, error in report.problems)
        status = library.status()
        assert (status.clips, status.pending) == (1, 0)
        assert status.segments == len(library._database.segments().ids)


def test_a_file_on_a_disk_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        write_sound(folder, f"s{number}", tone(1, 300 + 50 * number))
    pread = os.pread

    def fail(descriptor, size, place):
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == "s1.wav":
            raise OSError(5, "Input/output error")
        return pread(descriptor, size, place)

    monkeypatch.setattr(os, "pread", fail)
    with Library.create(tmp_path / "home", unlock=KeyFile(tmp_path / "key")) as library:
        report = library.add([folder])
        assert report.added == 2
        (path, error), = report.problems  # fmt: skip
        assert path.endswith("s1.wav")
        assert (error.exit_code, bool(error.hint)) == (20, True)


def test_a_label_counts_at_once_and_a_no_beats_the_model(library, sounds):
    library.label(str(sounds / "siren.wav"), "my kettle")
    answer = library.search(Query(text="my kettle"))
    assert Path(answer.hits[0].path).name == "siren.wav"
    assert answer.hits[0].labels[0].name == "my kettle"
    assert any(part.source == "you" for part in answer.hits[0].why)
    library.label(str(sounds / "siren.wav"), "my kettle", is_present=False)
    assert not any(Path(hit.path).name == "siren.wav" for hit in library.search(Query(text="my kettle")).hits)


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "x" * 101])
def test_what_is_no_name_is_refused(library, name):
    with pytest.raises(SettingsError):
        library.label("1", name)
    assert library._database.corrections() == []


def test_what_was_said_can_be_taken_back(library, sounds):
    siren = str(sounds / "siren.wav")
    before = library.search(Query(text="my kettle", limit=None, min_score=0.0)).hits
    library.label(siren, "my kettle")
    library.label(siren, "my kettle", at_s=1.0)
    library.label(siren, "my kettle", is_present=False, at_s=2.0)
    assert library.unlabel(siren, "my kettle", at_s=2.0) == 1
    with pytest.raises(NotInLibraryError, match="Nobody said my kettle"):
        library.unlabel(siren, "my kettle", at_s=2.0)
    assert library.unlabel(siren, "my kettle") == 2
    assert library._database.corrections() == []
    assert library._database.search_words("kettle") == []
    assert library.search(Query(text="my kettle", limit=None, min_score=0.0)).hits == before


def test_a_label_on_a_moment_is_found_at_that_moment(library, sounds):
    library.label(str(sounds / "hum low.wav"), "the fridge starts", at_s=2.0)
    hit = library.search(Query(text="fridge starts")).hits[0]
    assert hit.peak_s <= 2.0 < hit.peak_s + 0.99


def test_a_word_about_a_moment_is_shown_at_that_moment_alone(library, sounds):
    clip = library.clip(str(sounds / "wind" / "storm.wav"))
    heard = library.describe(clip)[0][1][0].name
    library.label(str(clip.id), "zebra", at_s=2.0)
    library.label(str(clip.id), heard, is_present=False, at_s=2.0)
    stretches = library.describe(clip)
    said = [segment for segment, labels in stretches if any(label.name == "zebra" for label in labels)]
    assert len(said) == 1 < len(stretches)
    assert said[0].start_s <= 2.0 < said[0].end_s < said[0].start_s + 1
    assert any(label.name == heard for _, labels in stretches for label in labels)
    assert not any(label.name == heard for segment, labels in stretches if segment in said for label in labels)


def test_what_people_said_of_one_moment_is_not_shown_at_a_hit_elsewhere(library, tmp_path):
    path = write_sound(tmp_path, "long", np.concatenate([noise(6), chirp(30)]))
    library.add([path])
    asked = Query(text="siren", folder=str(tmp_path), limit=None, min_score=0.0)
    before = library.search(asked).hits
    library.label_hit(before[0], "zebra", is_present=True)
    after = library.search(asked).hits
    assert len(after) == len(before) > 1
    assert [any(label.name == "zebra" for label in hit.labels) for hit in after] == [True] + [False] * (len(after) - 1)


def test_an_answer_is_about_the_segment_that_was_asked_about(library):
    for hit in library.review(3):
        library.label_hit(hit, hit.labels[0].name, is_present=True)
        assert library._database.corrections()[-1] == Correction(hit.clip_id, hit.segment_id, hit.labels[0].name, True)


def test_a_taught_sound_labels_and_searches_at_once(library, sounds, tmp_path):
    examples = [write_sound(tmp_path, f"ring{number}", tone(2, 222 + number)) for number in range(3)]
    library.teach("my doorbell", examples)
    answer = library.search(Query(text="my doorbell"))
    assert {Path(hit.path).name for hit in answer.hits[:2]} == {"hum low.wav", "hum high.flac"}
    assert {Path(clip.paths[0]).name for clip in library.clips(label="my doorbell")} >= {"hum low.wav", "hum high.flac"}
    later = write_sound(tmp_path, "later", tone(3, 225))
    library.add([later])
    assert str(later) in {clip.paths[0] for clip in library.clips(label="my doorbell")}
    library.remove_label("my doorbell")
    assert library.clips(label="my doorbell") == []


def test_a_taught_sound_that_is_not_wanted_sinks(library, sounds):
    asked = {"like": sounds / "hum low.wav", "limit": None, "min_score": 0.0}
    before = {hit.path: hit.score for hit in library.search(Query(**asked)).hits}
    library.teach("zzyzx", [sounds / "hum high.flac"])  # no word by which anything could be heard
    after = {hit.path: hit.score for hit in library.search(Query(exclude=("Zzyzx",), **asked)).hits}
    hum, clock = str(sounds / "hum high.flac"), str(sounds / "clock one.ogg")
    assert before[hum] > 0.5
    assert after[hum] < 0.1
    assert after[clock] > before[clock] / 2


def test_a_label_of_common_words_alone_is_found(library, sounds):
    library.label(str(sounds / "siren.wav"), "my sound")
    hit = library.search(Query(text="my sound", limit=1)).hits[0]
    assert (Path(hit.path).name, hit.why[0].source) == ("siren.wav", "you")


def test_a_sound_taught_under_a_name_of_the_models_own_is_one_label(library, sounds, tmp_path):
    path = write_sound(tmp_path, "downpour", noise(2, seed=9))
    library.add([path])
    name = library.describe(library.clip(str(path)))[0][1][0].name  # what the model hears itself
    library.teach(name, [sounds / "wind" / "storm.wav"])
    later = write_sound(tmp_path, "later", noise(2, seed=10))
    assert library.add([later]).added == 1
    labels = library.search(Query(text="later")).hits[0].labels
    assert [label.name for label in labels].count(name) == 1


def test_a_label_of_the_models_own_outlives_one_of_a_person_by_that_name(library):
    before = {name: {clip.id for clip in library.clips(label=name)} for name in everything_heard(library)}
    name = max(before, key=lambda name: len(before[name]))
    library.add_label(name, phrase="a baby crying")
    library.remove_label(name)
    assert {clip.id for clip in library.clips(label=name)} == before[name] != set()


def everything_heard(library):
    return {name for labels in library._database.all_labels().values() for name, _ in labels}


def test_a_sound_that_is_taught_again_leaves_the_clips_of_before(library, sounds):
    library.teach("my thing", [sounds / "hum low.wav"])
    library.label(str(sounds / "hum high.flac"), "my thing")
    library.teach("my thing", [sounds / "clock one.ogg"])
    labelled = {Path(clip.paths[0]).name for clip in library.clips(label="my thing")}
    assert "clock one.ogg" in labelled
    assert {name for name in labelled if name.startswith("hum")} == {"hum high.flac"}  # a person said so


def test_a_label_is_not_replaced_by_one_of_another_kind(library, sounds):
    library.teach("my siren", [sounds / "siren.wav"])
    with pytest.raises(SettingsError, match="taught sound") as refused:
        library.add_label("my siren", phrase="a siren")
    assert "labels remove" in refused.value.hint
    assert library._database.label_list()[0].vector is not None
    library.add_label("ticking", phrase="a clock ticking")
    with pytest.raises(SettingsError, match="phrase"):
        library.teach("ticking", [sounds / "clock one.ogg"])
    library.remove_label("my siren")
    library.add_label("my siren")


def test_an_added_phrase_is_a_label_of_every_clip_that_answers(library):
    count = library.add_label("ticking", phrase="a clock ticking")
    assert any(label.name == "ticking" and label.kind == "user" for label in library.labels())
    assert len(library.clips(label="ticking")) == count


def test_a_clip_that_lies_elsewhere_too_loses_only_the_path(library, sounds, tmp_path):
    copies = tmp_path / "old"
    copies.mkdir()
    copy = Path(shutil.copy(sounds / "siren.wav", copies / "backup.wav"))
    library.add([copies])
    library.label(str(copy), "keeper")
    assert library.remove([str(copies)]) == Removal(0, 1)
    assert library.clip(str(sounds / "siren.wav")).paths == (str(sounds / "siren.wav"),)
    assert [Path(hit.path).name for hit in library.search(Query(text="keeper")).hits] == ["siren.wav"]
    assert not any(part.source == "words" for part in library.search(Query(text="backup", limit=1, min_score=0.0)).hits[0].why)
    library.add([copies])
    assert library.remove([str(sounds / "siren.wav"), str(copy)]) == Removal(1, 0)
    library.add([copies, sounds])
    assert library.remove([str(library.clip(str(copy)).id)]) == Removal(1, 0)


def test_removed_clips_are_gone_from_every_search(library, sounds):
    assert library.remove([str(sounds / "wind")]) == Removal(2, 0)
    hits = library.search(Query(text="storm gale wind", limit=None, min_score=0.0)).hits
    assert not any("/wind/" in hit.path for hit in hits)
    with pytest.raises(NotInLibraryError):
        library.clip(str(sounds / "wind" / "storm.wav"))


def test_a_clip_is_described_from_beginning_to_end(stocked, sounds):
    stretches = stocked.describe(stocked.clip(str(sounds / "siren.wav")))
    assert stretches[0][0].start_s == 0.0
    assert all(before[0].start_s < after[0].start_s for before, after in pairwise(stretches))


def test_a_clip_is_described_alike_in_however_many_blocks(library, tmp_path, monkeypatch):
    path = write_sound(tmp_path, "long", np.concatenate([noise(3), chirp(4), clicks(3), noise(2)]))
    library.add([path])
    clip = library.clip(str(path))
    library.label(str(clip.id), "zebra", at_s=2.0)
    asked, score = [], teaching.label_scores
    monkeypatch.setattr(teaching, "label_scores", lambda shelf, ids: (asked.append(len(ids)), score(shelf, ids))[1])
    whole = library.describe(clip)
    assert len(whole) > 3
    for at_once in (1, 3, 7):
        monkeypatch.setattr(teaching, "SCORED_AT_ONCE", at_once)
        first = len(asked)
        parts = library.describe(clip)
        assert [segment for segment, _ in parts] == [segment for segment, _ in whole]
        assert [[label.name for label in found] for _, found in parts] == [[label.name for label in found] for _, found in whole]
        assert max(asked[first:]) == at_once < asked[0]


def test_review_asks_about_the_least_certain_first(stocked):
    doubts = [abs(hit.score - 0.5) for hit in stocked.review(5)]
    assert doubts == sorted(doubts)


def test_search_goes_on_in_one_process_while_another_adds(library, folder, tmp_path):
    with open_library(folder) as reader:
        before = len(reader.search(Query(text="tone", limit=None, min_score=0.0)).hits)
        library.add([write_sound(tmp_path, "new", tone(2, 700))])
        assert len(reader.search(Query(text="tone", limit=None, min_score=0.0)).hits) == before + 1


@pytest.mark.parametrize("is_by_example", [True, False])
def test_what_another_process_removes_while_a_search_is_understood_is_not_found(
    library, folder, sounds, monkeypatch, is_by_example
):
    library.teach("my siren", [sounds / "siren.wav"])  # so that labels of hits need the sound index too
    removed = str(sounds / "hum low.wav")

    def slowly(*given):
        target = make_target(*given)
        with open_library(folder) as other:
            other.remove([removed])
        return target

    with open_library(folder) as reader:
        monkeypatch.setattr(library_module, "make_target", slowly)
        asked = {"like": sounds / "siren.wav"} if is_by_example else {"text": "hum"}
        hits = reader.search(Query(**asked, limit=None, min_score=0.0)).hits
    assert len({hit.path for hit in hits}) == 6
    assert removed not in {hit.path for hit in hits}


def test_the_same_file_gives_the_same_bits_whatever_the_company(tmp_path, sounds):
    """Across runs, numbers of threads, and neighbours in a batch."""
    stored = []
    for number, (jobs, paths) in enumerate(
        [(1, [sounds / "siren.wav"]), (2, [sounds]), (4, [sounds / "wind", sounds / "siren.wav"])]
    ):
        home = tmp_path / f"home{number}"
        with Library.create(home, unlock=KeyFile(tmp_path / f"key{number}")) as library:
            library.add(paths, jobs=jobs)
            clip = library.clip(str(sounds / "siren.wav"))
            ids = library._database.segments_of(clip.id).ids
            blocks = [
                library._database.fetch(kind, library.status().model, ids) for kind in ("text", "sound", "encoder", "strength")
            ]
            stored.append([np.ascontiguousarray(block.rows).tobytes() for block in blocks])
    assert stored[0] == stored[1] == stored[2]
