"""kill -9 at any moment of an `add`: the next start is sound, nothing committed is lost, nothing is there twice or by halves.

The reference is a library filled without interruption: every clip that is ready must equal it to the bit, also one that was
begun by a process that was killed and finished by the next.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pytest

from earmark_client.library import Library
from earmark_client.store.keys import KeyFile
from tests.soundmaker import chirp, clicks, noise, tone, write_sound

ADD = """
import json, os, sys
from pathlib import Path
from earmark_shared.settings import go_offline
go_offline()
import faiss, onnxruntime, soundfile, soxr
from earmark_client import ingest, intake
from earmark_client.library import Library
from earmark_client.store.keys import KeyFile
intake.COMMIT_S, intake.COMMIT_SEGMENTS, ingest.BATCH_SEGMENTS = 0.02, 64, 32  # many small commits: many moments to be killed in

def add(folder, sounds):
    with Library.open(folder / "home", unlock=KeyFile(folder / "key")) as library:
        print(os.getpid(), flush=True)
        library.add([sounds])

for line in sys.stdin:
    child = os.fork()
    if not child:
        code = 1
        try:
            add(*map(Path, json.loads(line)))
            code = 0
        finally:
            os._exit(code)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
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


@pytest.fixture(scope="module")
def adder():
    """A process that has loaded the libraries, which most of a start goes to; each `add` runs in a child of it."""
    with subprocess.Popen([sys.executable, "-c", ADD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()


def interrupt(adder, folder, sounds, after_s: float) -> bool:
    """Start an `add`, kill it `after_s` seconds after it has opened the library; False if it was done before."""
    print(json.dumps([str(folder), str(sounds)]), file=adder.stdin, flush=True)
    child = int(adder.stdout.readline())
    time.sleep(after_s)
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    code = int(adder.stdout.readline().split()[1])
    assert code in {0, -signal.SIGKILL}
    return code != 0


def survive(adder, tmp_path, sounds, reference, *, kills: int, seed: int) -> None:
    whole, seconds = reference
    moments = random.Random(seed)
    done = 0
    for home in range(kills):
        folder = tmp_path / f"try{home}"
        folder.mkdir()
        Library.create(folder / "home", unlock=KeyFile(folder / "key")).close()
        committed: dict[str, Held] = {}
        while done < kills and interrupt(adder, folder, sounds, moments.uniform(0.0, 1.2 * seconds)):
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


def test_a_killed_add_leaves_a_sound_library(adder, tmp_path, sounds, reference):
    survive(adder, tmp_path, sounds, reference, kills=4, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_killed_adds_leave_sound_libraries(adder, tmp_path, sounds, reference):
    survive(adder, tmp_path, sounds, reference, kills=200, seed=2)


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
