"""What the store's attack tests share; run as a program it is the process that gets killed, or that may crash."""

import contextlib
import hashlib
import json
import math
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np

from earmark_client.records import Correction
from earmark_client.store import connection, keys
from earmark_client.store.blocks import store_int8
from earmark_client.store.database import ClipRow, Database, LabelRow
from earmark_client.store.home import create_home, open_home
from earmark_client.store.keys import KeyFile, create_key_file
from earmark_shared.errors import EarmarkError

MODEL = "model-1"
MARKERS = [f"zebra-marker-{number:03d}-quagga" for number in range(200)]
DIM = 96


class FakeKeyring:
    """A keyring that a test can look into."""

    def __init__(self):
        self.entries = {}

    def get_password(self, service, username):
        return self.entries.get((service, username))

    def set_password(self, service, username, password):
        self.entries[service, username] = password

    def delete_password(self, service, username):
        del self.entries[service, username]


def vectors(seed, count, dim=DIM):
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def kinds(seed, count):
    sound = store_int8(np.arange(count), vectors(seed + 1, count))
    return {
        "text": vectors(seed, count).astype(np.float16),
        "sound": (sound.rows, sound.scales),
        "strength": np.ones((count, 1), np.float32),
    }


def add_clip(database, number, segments=20):
    """One clip, its number in every place that can hold text; its vectors follow from the number."""
    marker = MARKERS[number % len(MARKERS)]
    row = ClipRow(hashlib.sha256(f"{number}".encode()).hexdigest(), 9.0, 16000, 1, 99, 1.0, 2.0, MODEL)
    clip_id = database.insert_clip(row, f"/recordings/{marker}/{number}.wav")
    starts = np.arange(segments) * 0.5
    database.add_segments([clip_id] * segments, starts, starts + 1, model_version=MODEL, vectors=kinds(number, segments))
    database.finish_clip(clip_id, duration_s=9.0, names=f"{marker} {number}")
    return clip_id


def mark(database, clip_id, number):
    marker = MARKERS[number % len(MARKERS)]
    database.set_labels(clip_id, [(f"label {marker}", 0.5)], model_version=MODEL)
    database.add_correction(Correction(clip_id, None, f"corrected {marker}", True), now_s=3.0)
    database.put_label(LabelRow(f"own {marker}", f"phrase {marker}", "taught", MODEL, vector=vectors(number, 1)[0]))
    database.set_meta(f"meta {marker}", marker)


def make_home(folder, clips=10, segments=20, secret=None):
    folder.mkdir(parents=True, exist_ok=True)
    if secret is None:
        secret = KeyFile(folder.parent / f"{folder.name}.key")
        create_key_file(secret.path)
    create_home(folder, secret)
    with open_home(folder, secret, write=True) as home, home.database.transaction():
        for number in range(clips):
            mark(home.database, add_clip(home.database, number, segments), number)
    return secret


def contents(database):
    """A digest of everything that can be read."""
    digest = hashlib.sha256()
    for part in (database.clips(), database.corrections(), database.label_list(), database.all_labels(), database.epoch):
        digest.update(repr(part).encode())
    table = database.segments()
    for column in (table.ids, table.clip_ids, table.start_s, table.end_s):
        digest.update(column.tobytes())
    for kind in ("text", "sound", "strength"):
        for block in database.blocks(kind, MODEL, pending=True):
            digest.update(block.ids.tobytes() + block.rows.tobytes() + (b"" if block.scales is None else block.scales.tobytes()))
    digest.update(repr(database.search_words("quagga")).encode())
    return digest.hexdigest()


def entropy(data):
    """Bits a byte."""
    shares = np.bincount(np.frombuffer(data, np.uint8), minlength=256) / len(data)
    return -sum(share * math.log2(share) for share in shares if share)


def without_key(monkeypatched=False):
    """Take the encryption away: what the controls attack."""
    original = connection.dbapi2.connect

    class Plain:
        def __init__(self, real):
            self.__dict__["real"] = real

        def execute(self, statement, *values):
            if statement.startswith(("PRAGMA key", "PRAGMA cipher_page_size")):
                return self.real.execute("SELECT 1")
            return self.real.execute(statement, *values)

        def __getattr__(self, name):
            return getattr(self.real, name)

    def connect(*arguments, **options):
        return Plain(original(*arguments, **options))

    return connect


def unread(database, truth):
    """Whether what can be read is the truth; the flip is then in a page that reading never met, and must fail the full check."""
    if contents(database) != truth:
        return False
    database.verify()
    return True


def flips(folder, secret, path, count, seed):
    """Flip one bit of `path` at a time; say for each whether it was noticed, passed unnoticed, or gave something else."""
    with open_home(folder, secret) as home:
        truth = contents(home.database)
    whole = path.read_bytes()
    chooser = random.Random(seed)
    spare = {name: (folder / name).read_bytes() for name in ("seal.json", "key.json") if (folder / name).exists()}
    outcome = {"detected": 0, "same": 0, "wrong": 0, "uncaught": 0}
    for _ in range(count):
        at = chooser.randrange(len(whole))
        changed = bytearray(whole)
        changed[at] ^= 1 << chooser.randrange(8)
        path.write_bytes(changed)
        try:
            with open_home(folder, secret) as home:
                outcome["same" if unread(home.database, truth) else "wrong"] += 1
        except EarmarkError:
            outcome["detected"] += 1
        except Exception as error:  # noqa: BLE001
            outcome["uncaught"] += 1
            print(repr(error), file=sys.stderr)
        path.write_bytes(whole)
        for name, data in spare.items():
            (folder / name).write_bytes(data)
        for extra in ("library.db-wal", "library.db-shm"):
            (folder / extra).unlink(missing_ok=True)
    return outcome


def write_until_killed(folder, secret, report, first):
    """Add clips, each in two batches, and remove some; say after each commit what is in the library for good."""
    with open_home(folder, secret, write=True) as home:
        database = home.database
        number = first
        os.write(report, b"!0\n")
        while True:
            row = ClipRow(hashlib.sha256(f"{number}".encode()).hexdigest(), 9.0, 16000, 1, 99, 1.0, 2.0, MODEL)
            with database.transaction():
                clip_id = database.insert_clip(row, f"/{number}.wav")
                database.add_segments([clip_id] * 30, range(30), range(1, 31), model_version=MODEL, vectors=kinds(number, 30))
            with database.transaction():
                database.add_segments(
                    [clip_id] * 30, range(30, 60), range(31, 61), model_version=MODEL, vectors=kinds(number, 30)
                )
                database.finish_clip(clip_id, duration_s=60.0, names=f"clip {number}")
            os.write(report, f"+{clip_id}\n".encode())
            if number % 4:
                os.write(report, f"?{clip_id}\n".encode())
                with database.transaction():
                    database.remove_clip(clip_id)
                os.write(report, f"-{clip_id}\n".encode())
            number += 1


def check_after_kill(folder, secret, present):
    """Nothing lost, nothing half there; gives the faults found."""
    faults = []
    with open_home(folder, secret) as home, home.database.snapshot():
        database = home.database
        clips = {clip.id for clip in database.clips()}
        if lost := {clip_id for clip_id, state in present.items() if state == "+"} - clips:
            faults.append(f"lost {sorted(lost)}")
        if back := {clip_id for clip_id, state in present.items() if state == "-"} & clips:
            faults.append(f"came back {sorted(back)}")
        table = database.segments()
        stored, counts = np.unique(table.clip_ids, return_counts=True)
        if set(stored.tolist()) != clips or (counts != 60).any():
            faults.append("half a clip")
        waiting = [database.segments_of(stored.id).ids for stored, _ in database.pending_clips()]
        faults += [f"half a batch: {len(ids)}" for ids in waiting if len(ids) != 30]
        everything = np.sort(np.concatenate([table.ids, *waiting]))
        for kind in ("text", "sound", "strength"):
            stored = [block.ids for block in database.blocks(kind, MODEL, pending=True)]
            if not np.array_equal(np.concatenate(stored) if stored else np.empty(0, np.int64), everything):
                faults.append(f"{kind} vectors are not the segments'")
        if len(database.search_words("clip", limit=10_000)) != len(clips):
            faults.append("words are not the clips'")
    return faults


def kill_often(folder, secret, kills, seed):
    """Fork a writer, kill it at a random moment, look; `kills` times on one home."""
    chooser = random.Random(seed)
    present, faults, opened = {}, [], 0
    for kill in range(kills):
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                write_until_killed(folder, secret, write_end, first=kill * 1000)
            os._exit(1)
        os.close(write_end)
        os.read(read_end, 3)  # it is open: what is random is where in its writing it dies
        time.sleep(chooser.uniform(0.0, 0.25))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(read_end) as said:
            for line in said:
                present[int(line[1:])] = line[0]
        faults += check_after_kill(folder, secret, present)
        opened += 1
    return {"opened": opened, "faults": faults, "clips": len(present)}


def kill_rewrap(folder, first, second, kills, seed):
    """Kill a process that changes the home's secret back and forth; one of the two must open it, with the same data key."""
    chooser = random.Random(seed)
    data_key = keys.unlock(folder, first)
    faults = []
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                while True:
                    for old, new in ((first, second), (second, first)):
                        with contextlib.suppress(EarmarkError):
                            keys.rewrap(folder, old, new)
            os._exit(1)
        time.sleep(chooser.uniform(0.0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        opened = []
        for secret in (first, second):
            with contextlib.suppress(EarmarkError):
                opened.append(keys.unlock(folder, secret))
        if opened != [data_key]:
            faults.append(len(opened))
    return {"faults": faults}


def crash_while_writing(folder, secret):
    """Leave a full write-ahead log and an open transaction behind, as a power cut would."""
    home = open_home(folder, secret, write=True)
    with home.database.transaction():
        for number in range(100, 150):
            mark(home.database, add_clip(home.database, number, 60), number)
    with home.database.transaction():
        for number in range(150, 200):
            mark(home.database, add_clip(home.database, number, 60), number)
        home.database._sql("SELECT m.key || n.key FROM meta m, meta n ORDER BY 1 DESC")  # a sorter that would spill
        os.kill(os.getpid(), signal.SIGKILL)


def main(arguments):
    """storekit.py COMMAND FOLDER KEYFILE [plain] [more]: run by the tests in a process of its own."""
    command, folder, key_file = arguments[0], Path(arguments[1]), Path(arguments[2])
    if "plain" in arguments:
        connection.dbapi2.connect = without_key()
    if "torn" in arguments:
        Database.transaction = torn_transaction
    secret = KeyFile(key_file)
    options = dict(part.split("=") for part in arguments if "=" in part)
    if command == "crash":
        crash_while_writing(folder, secret)
    if command == "flips":
        paths = options["paths"].split(os.pathsep)
        print(json.dumps([flips(folder, secret, Path(path), int(options["count"]), int(options["seed"])) for path in paths]))
    if command == "kills":
        print(json.dumps(kill_often(folder, secret, int(options["count"]), int(options["seed"]))))
    if command == "rewrap":
        print(
            json.dumps(kill_rewrap(folder, secret, KeyFile(Path(options["other"])), int(options["count"]), int(options["seed"])))
        )


@contextlib.contextmanager
def torn_transaction(database):
    """A transaction that isn't one: each statement commits on its own."""
    database._depth += 1
    yield
    database._depth -= 1
    database._connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")


def copy_home(source, target):
    shutil.copytree(source, target)
    return target


if __name__ == "__main__":
    main(sys.argv[1:])
