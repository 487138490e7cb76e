"""A newer shipped model takes over from what is stored: searches go on, nothing is mixed, nothing is lost, a kill resumes."""

import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from earmark_client import succession
from earmark_client.describe import Model
from earmark_client.library import BASE_MODEL, Library
from earmark_client.model.bundle import Bundle
from earmark_client.records import Query
from earmark_client.store.home import open_home
from earmark_client.store.keys import KeyFile
from earmark_shared.errors import ModelError
from tests.soundmaker import chirp, clicks, noise, tone, write_sound
from tests.support.homes import open_library
from tests.support.models import change_head

NAMES = ("hum", "clock", "storm", "siren")
ASKED = Query(text="wind", limit=None, min_score=0.0)
CATCH_UP = """
import sys
from pathlib import Path
from tests.support.homes import open_library
from tests.support.killing import Fuse

with open_library(Path(sys.argv[1])) as library:
    fuse = Fuse(int(sys.argv[2]))
    library.catch_up()
print(int(sys.argv[2]) - fuse.left)
"""


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    for name, waveform in zip(NAMES, (tone(3, 220), clicks(4), noise(3, seed=1), chirp(6)), strict=True):
        write_sound(folder, name, waveform)
    return folder


def fill(folder, sounds, model):
    """A home that an older Earmark filled, whose shipped model was `model`; with a correction at a moment and a taught sound."""
    key = KeyFile(folder / "key")
    Library.create(folder / "home", unlock=key).close()
    with Library(open_home(folder / "home", key), key, Model(Bundle.load(model))) as library:
        library.add([sounds])
        library.label("2", "gale", at_s=1.0)
        library.teach("my clock", [sounds / "clock.wav"])
    return folder


@pytest.fixture(scope="module")
def old(sounds, tmp_path_factory):
    """Such a home, of a model that hears like the shipped one and understands otherwise; the model's own folder is gone."""
    folder = tmp_path_factory.mktemp("old")
    fill(folder, sounds, change_head(BASE_MODEL, folder / "model"))
    shutil.rmtree(folder / "model")
    return folder


@pytest.fixture(scope="module")
def new(sounds, tmp_path_factory):
    """What the same sounds are in a home that the shipped model filled."""
    return fill(tmp_path_factory.mktemp("new"), sounds, BASE_MODEL)


@pytest.fixture
def copy(old, tmp_path):
    shutil.copytree(old, tmp_path / "copy")
    return tmp_path / "copy"


def found(library):
    return [(hit.path, hit.segment_id, hit.start_s, hit.score) for hit in library.search(ASKED).hits]


def test_the_newer_model_takes_over_and_nothing_is_lost(copy, new):
    with open_library(copy) as library, open_library(copy) as another:
        before, old = found(library), library.status()
        assert library.is_outdated
        assert found(another) == before
        assert library.catch_up()
        assert not library.is_outdated
        assert not library.catch_up()
        after, now = found(library), library.status()
        assert found(another) == after != before  # a search that was open follows
        assert now.model != old.model
        assert (now.segments, now.clips, now.corrections, now.own_labels, now.unheard) == (
            old.segments, old.clips, old.corrections, old.own_labels, 0,
        )  # fmt: skip
        assert library.search(Query(text="my clock", limit=1)).hits[0].path.endswith("clock.wav")
        assert library.search(Query(text="gale", limit=1)).hits[0].score > 0.9
        assert set(library._database.model_versions()) == {now.model}
        with open_library(new) as fresh:
            assert now.model == fresh.status().model
            expected = found(fresh)
        scores, heard = ({row[0]: row[3] for row in rows} for rows in (after, expected))
        assert scores == pytest.approx(heard, abs=0.02)


def test_the_older_model_answers_until_the_swap(copy, monkeypatch):
    with open_library(copy) as library, open_library(copy) as another:
        before = found(another)
        seen = []
        relabel = succession.updating.relabel

        def look(*args, **kwargs):  # all vectors are made by now
            seen.append(found(another))
            return relabel(*args, **kwargs)

        monkeypatch.setattr(succession.updating, "relabel", look)
        assert library.catch_up()
        assert seen == [before]


def catch_up(folder, writes):
    return subprocess.run([sys.executable, "-c", CATCH_UP, str(folder), str(writes)], capture_output=True, text=True, check=False)


def check_kills(old, tmp_path, most):
    shutil.copytree(old, tmp_path / "whole")
    writes = int(catch_up(tmp_path / "whole", 10**6).stdout)
    with open_library(tmp_path / "whole") as library:
        whole = found(library)
    with open_library(old) as library:
        before = found(library)
    for at in sorted({*range(0, writes, max(1, writes // most)), writes - 1}):
        place = tmp_path / "try"
        shutil.copytree(old, place)
        assert catch_up(place, at).returncode == -9
        with open_library(place) as library:
            assert found(library) in (before, whole)
            assert library.is_outdated == (found(library) == before)
            library.catch_up()
            assert found(library) == whole
            library.add([])
            assert set(library._database.model_versions()) == {library.status().model}
        shutil.rmtree(place)


class Stopped(BaseException):
    """Ends a take-over as Ctrl-C would."""


def test_stopped_at_any_write_it_goes_on(old, new, tmp_path, monkeypatch):
    from earmark_client.store.database import Database

    real, left = Database._write, [0]

    def write(self, *args):
        left[0] -= 1
        if left[0] < 0:
            raise Stopped
        return real(self, *args)

    with open_library(old) as library:
        before = found(library)
    shutil.copytree(old, tmp_path / "copy")
    for writes in range(100):
        with open_library(tmp_path / "copy") as library:
            left[0] = writes
            with monkeypatch.context() as patched, suppress(Stopped):
                patched.setattr(Database, "_write", write)
                library.catch_up()
            if not library.is_outdated:
                break
            assert found(library) == before
    assert writes > 5
    with open_library(tmp_path / "copy") as library, open_library(new) as fresh:
        assert library.status().model == fresh.status().model


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_any_write_it_goes_on(old, tmp_path):
    check_kills(old, tmp_path, 10_000)


def test_control_a_swap_before_its_vectors_is_seen(copy):
    with open_library(copy) as library, open_library(copy) as another:
        before = found(another)
        with library.home.lock(), library._database.transaction():
            library._database.rename_model(library.status().model, Bundle.load(BASE_MODEL).version)
        assert found(another) != before


@pytest.mark.slow
def test_a_model_that_hears_otherwise_hears_the_clips_again(sounds, tmp_path):
    folder = fill(tmp_path, sounds, change_head(BASE_MODEL, tmp_path / "model", array="multi_mean"))
    shutil.rmtree(folder / "model")
    with open_library(folder) as library:
        before, old = found(library), library.status().model
        assert library.is_outdated
        assert not library.catch_up()
        assert found(library) == before
        library.add([sounds])
        assert library.status().model != old
        assert library.status().unheard == 0
        assert not library.is_outdated


@pytest.mark.parametrize("array", ["output_mean", "output_axes", "classes_axes", "multi_spread", "sound_shares", "class_bias"])
def test_other_sound_vectors_are_not_taken_for_the_same(tmp_path, array):
    changed = Model(Bundle.load(change_head(BASE_MODEL, tmp_path / "model", array=array)))
    assert not succession.hear_alike(changed, Model(Bundle.load(BASE_MODEL)))
    same = Model(Bundle.load(change_head(BASE_MODEL, tmp_path / "same")))
    assert succession.hear_alike(same, Model(Bundle.load(BASE_MODEL)))


def test_a_kept_model_that_was_changed_on_the_disk_is_refused(copy):
    (kept,) = (copy / "home" / "models" / "shipped").iterdir()
    head = kept / "head.safetensors"
    head.write_bytes(head.read_bytes()[:-1] + b"!")
    with open_library(copy) as library, pytest.raises(ModelError):
        library.search(ASKED)
    shutil.rmtree(kept)
    with pytest.raises(ModelError, match="is not there"):
        open_library(copy)


@pytest.mark.slow
def test_the_command_line_answers_and_then_catches_up(copy):
    options = ["--home", str(copy / "home"), "--key-file", str(copy / "key")]
    earmark = [str(Path(sys.executable).parent / "earmark"), *options, "search", "wind", "--min-score", "0"]
    first, second = (subprocess.run(earmark, capture_output=True, text=True, check=True) for _ in range(2))
    assert "storm.wav" in first.stdout
    assert "a newer model" in first.stderr
    assert "storm.wav" in second.stdout
    assert "model" not in second.stderr
