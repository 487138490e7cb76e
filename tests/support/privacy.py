"""What the privacy tests share: entropy that can be replayed, a plain SQLite ledger store, an anchor in a file or in memory."""

import contextlib
import hashlib
import sqlite3

import numpy as np

from earmark_client.learn.finetune import TrainingSet
from earmark_client.learn.ledger import Anchored
from earmark_client.learn.ledger_rows import Charge
from earmark_client.store.schema import LEDGER
from earmark_shared.head import HeadSchema, first_head, unit_rows
from earmark_shared.privacy.accountant import SampledGaussian

KEY = bytes(range(32))
SMALL = SampledGaussian(noise_multiplier=2.0, sampling_probability=0.125, steps=4)


class ReplayableEntropy:
    """Another 32 bytes at every call, the same ones in every run."""

    def __init__(self, seed=b"test"):
        self.seed, self.calls = seed, 0

    def __call__(self, count):
        self.calls += 1
        return hashlib.shake_256(self.seed + self.calls.to_bytes(8, "big")).digest(count)


class PlainStorage:
    """An unencrypted SQLite database that keeps the store's promises about transactions."""

    def __init__(self, path=":memory:"):
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=20)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = FULL")
        if not self.execute("SELECT name FROM sqlite_master WHERE name = 'privacy_ledger'"):
            for statement in LEDGER:
                self.connection.execute(statement)

    def execute(self, statement, values=()):
        return self.connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def transaction(self):
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")


class MemoryAnchor:
    """A keyring that only this test sees."""

    def __init__(self):
        self.anchored = None

    def read(self):
        return self.anchored

    def write(self, anchored):
        self.anchored = anchored


class FileAnchor:
    """A keyring that outlives a process."""

    def __init__(self, path):
        self.path = path

    def read(self):
        if not self.path.exists():
            return None
        number, head = self.path.read_text().split()
        return Anchored(int(number), bytes.fromhex(head))

    def write(self, anchored):
        fresh = self.path.with_suffix(".new")
        fresh.write_text(f"{anchored.counter} {anchored.head_hash.hex()}")
        fresh.replace(self.path)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now_s=1_800_000_000.0):
        self.now_s = now_s

    def __call__(self):
        return self.now_s


def charge(number, *, record=SMALL, device=None, attempt=0):
    return Charge(
        round_id=number.to_bytes(16, "big"),
        plan_hash=hashlib.sha256(str(number).encode()).digest(),
        record=record,
        device=device,
        attempt=attempt,
    )


def small_schema(*, trained=("up", "bias"), inputs=24, outputs=16, rank=6, labels=5):
    return HeadSchema(inputs, outputs, rank, trained, tuple(f"label {number}" for number in range(labels)))


def small_head(schema, seed=0):
    rng = np.random.default_rng(seed)
    head = first_head(schema, b"test")
    return head | {name: (0.1 * rng.normal(size=head[name].shape)).astype("f4") for name in ("shift", "up", "bias")}


def training_set(schema, clips=80, *, seed=1, most_segments=5):
    """Clips whose encoder outputs say which label they have; some answers are noes, some clips have several."""
    rng = np.random.default_rng(seed)
    labels = len(schema.labels)
    centres = rng.normal(size=(labels, schema.inputs))
    truth = rng.integers(0, labels, clips)
    owners = np.repeat(np.arange(clips), rng.integers(1, most_segments + 1, clips))
    outputs = centres[truth[owners]] + 0.5 * rng.normal(size=(len(owners), schema.inputs))
    targets = np.zeros((clips, labels), dtype=np.int8)
    targets[np.arange(clips), truth] = 1
    targets[np.arange(0, clips, 3), (truth[::3] + 1) % labels] = -1
    return TrainingSet(
        encoder_outputs=outputs.astype("f4"),
        text=unit_rows(rng.normal(size=(len(owners), schema.outputs)).astype("f4")),
        clips=owners.astype(np.int64),
        targets=targets[owners],
        label_vectors=unit_rows(rng.normal(size=(labels, schema.outputs)).astype("f4")),
    )
