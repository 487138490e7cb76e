"""R1, R2: nothing readable lies on the disk, and nothing that was changed there is believed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from tests.attack import storekit

from earmark_client.store import connection
from earmark_client.store.home import open_home
from earmark_client.store.keys import KeyFile
from earmark_shared.errors import EarmarkError


def run(*arguments, **more):
    return subprocess.run(
        [sys.executable, storekit.__file__, *map(str, arguments)], capture_output=True, text=True, check=False, **more
    )


@cache
def needles():
    """Marker strings in the encodings a file could hold them in, and vectors as stored."""
    found = {marker.encode() for marker in storekit.MARKERS}
    found |= {marker.encode("utf-16-le") for marker in storekit.MARKERS[::10]}
    for number in range(200):
        found.add(storekit.vectors(number, 1).astype(np.float16).tobytes()[:48])
        found.add(storekit.vectors(number, 1)[0].astype("<f4").tobytes()[:48])
        found.add(storekit.kinds(number, 1)["sound"][0].tobytes()[:48])
    return found


@cache
def starts():
    """The needles by their first four bytes, and which values those bytes' two halves have."""
    by_start, halves = {}, np.zeros((2, 1 << 16), bool)
    for needle in needles():
        by_start.setdefault(needle[:4], []).append(needle)
        halves[(0, 1), np.frombuffer(needle[:4], "<u2")] = True
    return by_start, halves


def found_in(data):
    """Which needles occur in `data`; one look at each place for all of them, since `in` would read it anew for each."""
    by_start, (first, second) = starts()
    found = set()
    for shift in (0, 1):
        pairs = np.frombuffer(data, "<u2", count=max(0, len(data) - shift) // 2, offset=min(shift, len(data)))
        for place in 2 * np.flatnonzero(first[pairs[:-1]] & second[pairs[1:]]) + shift:
            found |= {needle for needle in by_start.get(data[place : place + 4], ()) if data.startswith(needle, place)}
    return found


def plaintext_hits(folder):
    return sum(len(found_in(path.read_bytes())) for path in folder.rglob("*") if path.is_file())


def filled(tmp_path, *, plain):
    """A home that was written, copied while open, and killed in the middle of a transaction, its temporary folder beside it."""
    root = tmp_path / ("plain" if plain else "sealed")
    home = root / "home"
    (root / "tmp").mkdir(parents=True)
    secret = storekit.make_home(home, clips=100, segments=40)
    process = run(
        "crash",
        home,
        secret.path,
        *(["plain"] if plain else []),
        cwd=root / "tmp",
        env={**os.environ, "TMPDIR": str(root / "tmp")},
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert (home / "library.db-wal").stat().st_size > 1 << 20
    shutil.copytree(home, root / "copy after the crash")
    with open_home(home, secret) as opened:
        assert opened.database.counts().clips == 150
    assert process.stderr == ""
    assert process.stdout == ""
    return root


def test_nothing_readable_lies_on_the_disk(tmp_path):
    root = filled(tmp_path, plain=False)
    assert plaintext_hits(root) == 0
    for path in root.rglob("library.db*"):
        data = path.read_bytes()
        assert not data.startswith(b"SQLite format 3")
        if len(data) >= 1 << 20 and not path.name.endswith("-shm"):
            assert storekit.entropy(data) >= 7.99, path


def test_control_without_encryption_the_markers_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(connection.dbapi2, "connect", storekit.without_key())
    root = filled(tmp_path, plain=True)
    assert plaintext_hits(root) > 200
    assert (root / "home" / "library.db").read_bytes().startswith(b"SQLite format 3")


def test_what_is_removed_leaves_no_vector_in_the_decrypted_database(tmp_path, monkeypatch):
    monkeypatch.setattr(connection.dbapi2, "connect", storekit.without_key())  # look below the encryption
    folder = tmp_path / "home"
    secret = storekit.make_home(folder, clips=3, segments=30)
    needle = np.ascontiguousarray(storekit.kinds(1, 30)["text"][7]).tobytes()
    assert needle in (folder / "library.db").read_bytes()
    with open_home(folder, secret, write=True) as home, home.database.transaction():
        home.database.remove_clip(2)
    data = b"".join(path.read_bytes() for path in folder.iterdir())
    assert needle not in data
    assert f"{storekit.MARKERS[1]} 1".encode() not in data
    assert np.ascontiguousarray(storekit.kinds(2, 30)["text"][7]).tobytes() in data


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder with `home` and `home.key`, for copies."""
    folder = tmp_path_factory.mktemp("stored")
    storekit.make_home(folder / "home", clips=6, segments=200)
    return folder


@pytest.fixture
def folder(stored, tmp_path):
    shutil.copytree(stored, tmp_path, dirs_exist_ok=True)
    return tmp_path / "home"


TARGETS = ("home/library.db", "home/key.json", "home/seal.json", "home.key")


def flipped(tmp_path, targets, count, *, plain=False):
    """What came of `count` flips in each of the targets, in a process of its own, which a flip may crash."""
    folder = tmp_path / "home"
    process = run(
        "flips",
        folder,
        tmp_path / "home.key",
        f"paths={os.pathsep.join(str(tmp_path / target) for target in targets)}",
        f"count={count}",
        "seed=5",
        *(["plain"] if plain else []),
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def check_flips(tmp_path, count):
    for target, outcome in zip(TARGETS, flipped(tmp_path, TARGETS, count), strict=True):
        assert outcome["wrong"] == outcome["uncaught"] == 0, target
        assert outcome["detected"] == count, target


@pytest.mark.usefixtures("folder")
def test_a_flipped_bit_is_never_believed(tmp_path):
    check_flips(tmp_path, 60)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("folder")
def test_500_flipped_bits_are_never_believed(tmp_path):
    check_flips(tmp_path, 500)


def test_control_without_encryption_a_flipped_bit_is_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(connection.dbapi2, "connect", storekit.without_key())
    storekit.make_home(tmp_path / "home", clips=6, segments=200)
    (outcome,) = flipped(tmp_path, TARGETS[:1], 30, plain=True)
    assert outcome["wrong"] > 10


def test_verify_reads_pages_that_nothing_uses(folder):
    secret = KeyFile(folder.parent / "home.key")
    path = folder / "library.db"
    whole = path.read_bytes()
    for at in random.Random(3).sample(range(len(whole)), 25):
        changed = bytearray(whole)
        changed[at] ^= 4
        path.write_bytes(changed)
        with pytest.raises(EarmarkError), open_home(folder, secret) as home:
            home.database.verify()


def test_a_changed_write_ahead_log_is_not_believed(tmp_path):
    folder = tmp_path / "home"
    secret = storekit.make_home(folder, clips=2)
    process = run("crash", folder, secret.path)
    assert process.returncode == -signal.SIGKILL
    with open_home(storekit.copy_home(folder, tmp_path / "truth"), secret) as home:
        truth = storekit.contents(home.database)
    size = (folder / "library.db-wal").stat().st_size
    detected = 0
    for number, at in enumerate(random.Random(9).sample(range(size), 20)):
        copy = storekit.copy_home(folder, tmp_path / f"copy{number}")
        data = bytearray((copy / "library.db-wal").read_bytes())
        data[at] ^= 1
        (copy / "library.db-wal").write_bytes(data)
        try:
            with open_home(copy, secret) as home:
                assert storekit.contents(home.database) == truth
        except EarmarkError:
            detected += 1
    assert detected > 5
