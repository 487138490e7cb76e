"""What is claimed, counted and given a path while sound is added; the whole way is in tests/integration."""

import threading
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.support.homes import new_database

from earmark_client.audio.decode import SoundInfo
from earmark_client.ingest import Batch, Begun, Claims, Cuts, Encoded, Finished, Ingest, Known, Refused, _Steps
from earmark_client.intake import Intake
from earmark_client.model.head import Vectors
from earmark_client.models import is_there
from earmark_client.naming import find_places
from earmark_client.records import Correction, Label
from earmark_client.tally import Tally
from earmark_shared.errors import DamagedAudioError

INFO = SoundInfo(16_000, 1, "WAV")
MODEL = SimpleNamespace(
    base_version="m", version="m", correction=None, keeps_output=False, segmenter=lambda: SimpleNamespace(share_of=lambda n: n)
)
LABELS = SimpleNamespace(
    names=("dog",),
    top=lambda scores: [Label("dog", float(scores[0]))],
    scores=lambda text, strength, sound: np.full((len(text), 1), 0.9, np.float32),
)


def test_a_content_is_taken_once_whoever_asks():
    claims = Claims([], {})
    taken = []
    lanes = [threading.Thread(target=lambda: taken.append(claims.take("a"))) for _ in range(8)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    assert sorted(taken, key=str) == [0.0] + [None] * 7


def test_stored_content_is_not_taken():
    assert Claims(["a"], {}).take("a") is None


def test_interrupted_content_goes_on_where_it_was():
    assert Claims([], {"a": 12.5}).take("a") == 12.5


class FakeDecoder:
    """Opens files that hold no segment; the content is the name. `on_leaving` is raised when the file is closed."""

    status = SimpleNamespace(st_size=5, st_mtime=6.0)

    def __init__(self, on_leaving=None):
        self._on_leaving = on_leaving

    @contextmanager
    def open(self, path, roots):
        yield SimpleNamespace(content_sha256=lambda: path.stem, info=INFO, duration_s=1.0, status=self.status)
        if self._on_leaving:
            raise self._on_leaving


@pytest.fixture
def database(tmp_path):
    with new_database(tmp_path) as opened:
        yield opened


@pytest.fixture
def intake(database):
    return Intake(database, MODEL, LABELS)


def read(path, decoder, claims=None):
    """The events of one file."""
    events = []
    ingest = Ingest(MODEL, LABELS, claims or Claims([], {}), jobs=1)
    ingest._put = events.append
    ingest._groups = lambda stream, resume_s: iter(())
    ingest._read(decoder, path, path.parent, SimpleNamespace(add=events.append))
    return events


def begun(path, content):
    return Begun(path, content, INFO, 5, 6.0)


def batch(start_s=0.0):
    row = np.ones((1, 2), np.float32)
    vectors = Vectors(row, row[0, :1], row)
    return Batch(np.array([start_s]), np.array([start_s + 1.0]), vectors, row, np.array([[0.9]], np.float32))


def whole(path, content):
    """The events of one file that is read from beginning to end."""
    return [begun(path, content), Encoded(content, batch()), Finished(content, 1.0)]


def stored(intake, events):
    return intake.store(iter(events), Tally(len(events)))


class Describer:
    """Takes batches; each is described when the test says so, or at once."""

    def __init__(self, *, at_once=True):
        self.sizes, self.put, self.under_way, self.at_once = [], [], [], at_once

    def describe(self, steps):
        future = Future()
        self.sizes.append(sum(len(step.cuts) for step in steps if isinstance(step, Cuts)))
        self.under_way.append(lambda: future.set_result([Encoded(step.content_sha256, batch()) for step in steps]))
        if self.at_once:
            self.under_way.pop()()
        return future

    def steps(self):
        return _Steps(self.describe, self.put.append, most_ahead=4)


def test_the_first_short_clips_are_described_soon_and_the_others_many_at_once():
    describer = Describer()
    steps = describer.steps()
    for number in range(8 + 16 + 32 + 64 + 64):
        steps.add(Cuts(str(number), ["cut"]))
    assert describer.sizes == [8, 16, 32, 64, 64]


def test_what_is_described_leaves_with_the_next_file_however_little_is_under_way():
    describer = Describer(at_once=False)
    steps = describer.steps()
    for number in range(8):
        steps.add(Cuts(str(number), ["cut"]))
    assert describer.put == []
    describer.under_way.pop()()
    steps.add(Cuts("next", ["cut"]))
    assert [event.content_sha256 for event in describer.put] == list("01234567")


def test_what_is_described_after_a_stop_keeps_nobody_waiting():
    ingest = Ingest(MODEL, LABELS, Claims([], {}), jobs=1)
    ingest._stop.set()
    ingest._put(None)
    assert ingest._events.empty()


def test_a_file_that_changed_while_it_was_read_is_not_finished_first(tmp_path):
    path = tmp_path / "a.wav"  # renamed since it was opened
    assert [type(event) for event in read(path, FakeDecoder())] == [Begun, Finished]
    assert [type(event) for event in read(path, FakeDecoder(), Claims(["a"], {}))] == [Known]
    changed = FakeDecoder(DamagedAudioError("changed"))
    assert [type(event) for event in read(path, changed)] == [Begun, Refused]
    assert [type(event) for event in read(path, changed, Claims(["a"], {}))] == [Refused]


def test_a_refusal_takes_back_what_waits_to_be_written(intake, database):
    error = DamagedAudioError("changed")
    report = stored(intake, [*whole(Path("/a.wav"), "a"), Refused(Path("/a.wav"), error, "a"), *whole(Path("/b.wav"), "b")])
    assert report.problems == (("/a.wav", error),)
    assert [clip.paths for clip in database.clips()] == [("/b.wav",)]
    assert database.counts().segments == 1


def test_a_clip_was_added_when_the_clock_says(database):
    stored(Intake(database, MODEL, LABELS, clock=lambda: 12.5), whole(Path("/a.wav"), "a"))
    assert [clip.added_at_s for clip in database.clips()] == [12.5]


def test_a_path_that_cannot_be_looked_at_is_not_taken_for_gone(intake, database):
    closed, copy = Path("/" + "x" * 300), Path("/copy.wav")
    report = stored(intake, whole(closed, "a"))
    again = stored(intake, [Known(copy, "a", 6.0)])
    assert (report.added, again.known, again.moved) == (1, 1, 0)
    clip = database.clips()[0]
    assert set(clip.paths) == {str(closed), str(copy)}
    assert not is_there(clip)


def test_what_an_interrupted_add_left_goes_with_its_folder(intake, database):
    stored(intake, [*whole(Path("/r/a.wav"), "a"), begun(Path("/r/b.wav"), "b"), Encoded("b", batch())])
    assert [clip.id for clip, _ in database.pending_clips()] == [2]
    assert list(find_places(database, "/r")) == [1, 2]
    with database.transaction():
        database.remove_clip(1)
    assert list(find_places(database, "/r")) == [2]


def test_what_a_file_held_before_it_was_edited_is_forgotten(intake, database):
    stored(intake, whole(Path("/r/a.wav"), "old"))
    stored(intake, [*whole(Path("/r/a.wav"), "new"), *whole(Path("/r/b.wav"), "b")])
    assert [(clip.content_sha256, clip.paths) for clip in database.clips()] == [("new", ("/r/a.wav",)), ("b", ("/r/b.wav",))]
    assert database._one("SELECT count(*) FROM all_segments")[0] == 2
    assert database.vector_ids("sound", "m").tolist() == [2, 3]


def test_what_people_said_of_a_file_outlives_its_editing_and_goes_with_its_folder(intake, database):
    stored(intake, whole(Path("/r/a.wav"), "0123456789"))
    with database.transaction():
        database.add_correction(Correction(1, 1, "dog", True), now_s=1.0)
    stored(intake, whole(Path("/r/a.wav"), "new"))
    assert [clip.paths for clip in database.clips()] == [("/r/a.wav (replaced 012345)",), ("/r/a.wav",)]
    assert list(find_places(database, "/r")) == [1, 2]
    report = stored(intake, [Known(Path("/r/a.wav"), "0123456789", 6.0)])  # and back again
    assert report.moved == 1
    assert [clip.paths for clip in database.clips()] == [("/r/a.wav",)]


def test_a_file_that_moved_to_make_room_keeps_its_clip(intake, database):
    stored(intake, whole(Path("/r/rec.wav"), "old"))
    report = stored(intake, [*whole(Path("/r/rec.wav"), "new"), Known(Path("/r/rec.1.wav"), "old", 6.0)])
    assert (report.added, report.moved) == (1, 1)
    assert [(clip.id, clip.paths) for clip in database.clips()] == [(1, ("/r/rec.1.wav",)), (2, ("/r/rec.wav",))]


def test_a_clip_without_any_path_from_an_older_version_is_forgotten(intake, database):
    stored(intake, whole(Path("/r/a.wav"), "a"))
    with database.transaction():
        database.remove_path("/r/a.wav")
    stored(intake, [])
    assert database.clips() == []


def test_a_renamed_file_is_found_by_its_new_name_alone(intake, database):
    stored(intake, whole(Path("/r/REC001.wav"), "a"))
    report = stored(intake, [Known(Path("/r/grandma laughing.wav"), "a", 6.0)])
    assert report.moved == 1
    assert database.search_words("grandma laughing") == [1]
    assert database.search_words("REC001") == []


def test_a_file_is_found_by_each_of_its_names(intake, database, tmp_path):
    first, second, third = (tmp_path / f"{name}.wav" for name in ("ring", "bell", "chime"))
    for path in (first, second, third):
        path.touch()
    stored(
        intake, [begun(first, "a"), Known(second, "a", 6.0), Encoded("a", batch()), Finished("a", 1.0), Known(third, "a", 6.0)]
    )
    assert [database.search_words(path.stem) for path in (first, second, third)] == [[1], [1], [1]]
    stored(intake, whole(third, "b"))  # edited in place
    assert [database.search_words(path.stem) for path in (first, second, third)] == [[1], [1], [2]]


def test_an_interrupted_file_that_moved_goes_on_under_its_new_path(intake, database):
    stored(intake, [begun(Path("/r/REC001.wav"), "a"), Encoded("a", batch())])
    report = stored(intake, [begun(Path("/r/new.wav"), "a"), Encoded("a", batch(1.0)), Finished("a", 2.0)])
    assert (report.added, report.known, report.moved) == (1, 0, 0)
    assert [clip.paths for clip in database.clips()] == [("/r/new.wav",)]
    assert database.search_words("new") == [1]


def test_a_corrected_date_is_taken_over(intake, database):
    stored(intake, whole(Path("/r/a.wav"), "a"))
    report = stored(intake, [Known(Path("/r/a.wav"), "a", 99.0)])
    assert (report.known, database.clips()[0].recorded_at_s) == (1, 99.0)


def test_a_copy_s_date_is_not_the_clip_s(intake, database, tmp_path):
    first, second = tmp_path / "a.wav", tmp_path / "b.wav"
    first.touch()
    second.touch()
    stored(intake, [*whole(first, "a"), Known(second, "a", 7.0)])
    stored(intake, [Known(second, "a", 8.0)])
    assert [(clip.paths, clip.recorded_at_s) for clip in database.clips()] == [((str(first), str(second)), 6.0)]


def test_what_is_too_quiet_to_be_found_is_counted(intake, database):
    events = [begun(Path("/r/hush.wav"), "h"), Finished("h", 1.0), *whole(Path("/r/a.wav"), "a")]
    report = stored(intake, events)
    assert (report.added, report.silent) == (2, 1)
    assert stored(intake, [Known(Path("/r/hush.wav"), "h", 6.0)]).silent == 0


def test_a_clip_that_went_on_is_silent_only_if_nothing_of_it_was_stored(intake, database, monkeypatch):
    kept = {}
    monkeypatch.setattr("earmark_client.intake.stored_best", lambda _database, _model, _labels, clip_id: kept[clip_id])
    stored(intake, [begun(Path("/r/a.wav"), "a"), begun(Path("/r/b.wav"), "b")])
    kept.update({1: np.ones((1, 1), np.float32), 2: np.empty((0, 1), np.float32)})
    again = Intake(database, MODEL, LABELS)
    events = [begun(Path("/r/a.wav"), "a"), begun(Path("/r/b.wav"), "b"), Finished("a", 1.0), Finished("b", 1.0)]
    assert stored(again, events).silent == 1
