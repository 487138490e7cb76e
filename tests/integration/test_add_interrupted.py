"""kill -9 at any moment of an `add`: the next start is sound, nothing committed is lost, nothing is there twice or by halves.

The reference is a library filled without interruption: every clip that is ready must equal it to the bit, also one that was
begun by a process that was killed and finished by the next.
"""

import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest

from earmark_client.library import Library
from earmark_client.store.keys import KeyFile
from tests.soundmaker import chirp, clicks, noise, tone, write_sound

ADD = """
import sys
from pathlib import Path
from earmark_client import ingest, intake
from earmark_client.library import Library
from earmark_client.store.keys import KeyFile
intake.COMMIT_S, intake.COMMIT_SEGMENTS, ingest.BATCH_SEGMENTS = 0.02, 64, 32  # many small commits: many moments to be killed in
folder = Path(sys.argv[1])
with Library.open(folder / "home", unlock=KeyFile(folder / "key")) as library:
    print("open", flush=True)
    library.add([Path(sys.argv[2])])
"""
KINDS = ("text", "sound", "encoder", "strength")


@dataclass(frozen=True)
class Held:
    """What a library holds of one clip."""

    times: bytes
    vectors: tuple[bytes, ...]
    labels: tuple


def holdings(library: Library) -> dict[str, Held]:
    """Every ready clip by its content."""
    database, model = library._database, library.status().model
    found = {}
    for clip in library.clips():
        table = database.segments_of(clip.id)
        order = np.argsort(table.start_s)
        blocks = [database.fetch(kind, model, table.ids[order]) for kind in KINDS]
        vectors = tuple(np.ascontiguousarray(block.rows).tobytes() for block in blocks)
        times = np.stack((table.start_s[order], table.end_s[order])).tobytes()
        found[clip.content_sha256] = Held(times, vectors, tuple(database.labels_of(clip.id)))
    return found


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Short clips, and one long enough to be committed in several steps."""
    folder = tmp_path_factory.mktemp("sounds")
    for number in range(8):
        write_sound(
            folder, f"short{number}", tone(2 + number / 4, 200 + 40 * number) + noise(2 + number / 4, seed=number, level=0.02)
        )
    long = np.concatenate([chirp(12), clicks(12), noise(12, seed=5)])
    write_sound(folder, "long", long, container="flac")
    return folder


@pytest.fixture(scope="module")
def reference(sounds, tmp_path_factory):
    """What an uninterrupted `add` holds, and how long it takes."""
    folder = tmp_path_factory.mktemp("reference")
    with Library.create(folder / "home", unlock=KeyFile(folder / "key")) as library:
        report = library.add([sounds])
        return holdings(library), report.seconds


def interrupt(folder, sounds, after_s: float) -> bool:
    """Start an `add`, kill it `after_s` seconds after it has opened the library; False if it was done before."""
    child = subprocess.Popen([sys.executable, "-c", ADD, str(folder), str(sounds)], stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"open\n"
        time.sleep(after_s)
        is_running = child.poll() is None
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait(timeout=20)
        child.stdout.close()
    return is_running


def survive(tmp_path, sounds, reference, *, kills: int, seed: int) -> None:
    whole, seconds = reference
    moments = random.Random(seed)
    done = 0
    for home in range(kills):
        folder = tmp_path / f"try{home}"
        folder.mkdir()
        Library.create(folder / "home", unlock=KeyFile(folder / "key")).close()
        committed: dict[str, Held] = {}
        while done < kills and interrupt(folder, sounds, moments.uniform(0.0, 1.2 * seconds)):
            done += 1
            with Library.open(folder / "home", unlock=KeyFile(folder / "key")) as library:
                now = holdings(library)
                library._database.verify()
            assert committed.items() <= now.items(), "a committed clip was lost or changed"
            assert now.items() <= whole.items(), "a clip is there by halves"
            committed = now
        with Library.open(folder / "home", unlock=KeyFile(folder / "key")) as library:
            library.add([sounds])
            assert holdings(library) == whole
            assert library.status().pending == 0
            assert library.status().segments == sum(len(held.times) // 16 for held in whole.values())
        if done >= kills:
            return


def test_a_killed_add_leaves_a_sound_library(tmp_path, sounds, reference):
    survive(tmp_path, sounds, reference, kills=4, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_killed_adds_leave_sound_libraries(tmp_path, sounds, reference):
    survive(tmp_path, sounds, reference, kills=200, seed=2)


def test_half_a_clip_would_be_seen(tmp_path, sounds, reference):
    """The control: a clip made ready before its last segment is stored does not pass for whole."""
    whole, _ = reference
    with Library.create(tmp_path / "home", unlock=KeyFile(tmp_path / "key")) as library:
        library.add([sounds / "long.flac"])
        database = library._database
        clip = library.clips()[0]
        with database.transaction():
            database._write("DELETE FROM all_segments WHERE id = (SELECT max(id) FROM segments)")
        assert not holdings(library).items() <= whole.items()
        assert clip.content_sha256 in whole
