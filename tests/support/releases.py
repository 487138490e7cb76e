"""A release repository in memory, honest until a test makes it lie; and a device that asks it. After python-tuf's own simulator."""

import datetime as dt
import time
from types import SimpleNamespace

import numpy as np
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from earmark_client.federation.releases import fetch_release
from earmark_client.model.active import ActiveState, load_correction
from earmark_client.updating import STATE, read_state
from earmark_shared.head import HeadSchema, first_head
from earmark_shared.release import RELEASE_NAME, SCHEMA_NAME, dump_head, make_release, sha256_hex
from earmark_shared.releasing import PIECE_SIZE, Piece
from tests.support.homes import new_database

SCHEMA = HeadSchema(inputs=6, outputs=4, rank=2, trained=("up", "bias"), labels=("dog", "siren"))
BASE = "base-0123456789ab"
KEYS = {"root": (3, 2), "targets": (3, 2), "snapshot": (1, 1), "timestamp": (1, 1)}
DAY = dt.timedelta(days=1)


def some_head(seed, schema=SCHEMA):
    """A head that corrects something."""
    draw = np.random.default_rng(seed)
    moved = {name: draw.normal(0, 0.3, schema.shapes[name]).astype(np.float32) for name in schema.trained}
    return first_head(schema, b"tests") | moved


class Repository:
    """Signed metadata and targets by their paths; `files` is what the server hands out."""

    def __init__(self):
        self.now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        self.signers = {role: [CryptoSigner.generate_ed25519() for _ in range(count)] for role, (count, _) in KEYS.items()}
        far = self.now + 30 * DAY
        self.root = Root(1, expires=far, consistent_snapshot=True)
        for role, (_, threshold) in KEYS.items():
            for signer in self.signers[role]:
                self.root.add_key(signer.public_key, role)
            self.root.roles[role].threshold = threshold
        self.targets, self.snapshot = Targets(1, expires=far), Snapshot(1, expires=far)
        self.timestamp = Timestamp(1, expires=far)
        self.files, self.number = {}, 0
        self.put_root()
        self.pin = bytes.fromhex(sha256_hex(self.files["metadata/1.root.json"]))

    def signed(self, signed, signers):
        metadata = Metadata(signed)
        for signer in signers:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    def put_root(self, signers=None, *, name=None):
        signers = self.signers["root"] if signers is None else signers
        self.files[f"metadata/{name or self.root.version}.root.json"] = self.signed(self.root, signers)

    def put_targets(self, signers=None, *, name=None):
        data = self.signed(self.targets, self.signers["targets"] if signers is None else signers)
        self.files[f"metadata/{name or self.targets.version}.targets.json"] = data

    def put_snapshot(self, signers=None, *, name=None):
        data = self.signed(self.snapshot, self.signers["snapshot"] if signers is None else signers)
        self.files[f"metadata/{name or self.snapshot.version}.snapshot.json"] = data

    def put_timestamp(self, signers=None):
        data = self.signed(self.timestamp, self.signers["timestamp"] if signers is None else signers)
        self.files["metadata/timestamp.json"] = data

    def add(self, number=None, *, seed=None, leave_out=()):
        """Put the next release's files and name them in targets."""
        self.number = self.number + 1 if number is None else number
        head = dump_head(SCHEMA, some_head(self.number if seed is None else seed))
        self.release = make_release(self.number, BASE, SCHEMA, head)
        files = {RELEASE_NAME: self.release.to_json(), SCHEMA_NAME: SCHEMA.to_json().encode(), self.release.head_name: head}
        self.targets.targets = {
            name: TargetFile.from_data(name, data, ["sha256"]) for name, data in files.items() if name not in leave_out
        }
        for name, data in files.items():
            self.files[self.target_path(name, data)] = data
        self.head_path = self.target_path(self.release.head_name, head)

    @staticmethod
    def target_path(name, data):
        return f"targets/{sha256_hex(data)}.{name}"

    def bump(self):
        """Count every online and targets version up by one, each naming the next."""
        self.targets.version += 1
        self.snapshot.version += 1
        self.timestamp.version += 1
        self.snapshot.meta["targets.json"] = MetaFile(self.targets.version)
        self.timestamp.snapshot_meta = MetaFile(self.snapshot.version)

    def put(self):
        """Sign and hand out targets, snapshot and timestamp as they are."""
        self.put_targets()
        self.put_snapshot()
        self.put_timestamp()

    def publish(self, **what):
        """Release honestly."""
        self.add(**what)
        self.bump()
        self.put()
        return self.release

    def ask(self, wanted):
        data = self.files.get(wanted.path.decode())
        if data is None:
            return Piece(is_there=False, size=0, data=b"")
        return Piece(is_there=True, size=len(data), data=data[wanted.start : wanted.start + PIECE_SIZE])


class Device:
    """A home without sounds: a database, a models folder, a clock."""

    def __init__(self, folder, *, open_database=new_database):
        folder.mkdir(mode=0o700, exist_ok=True)
        self.database = open_database(folder)
        self.home = SimpleNamespace(folder=folder, database=self.database)
        self.shift_s = 0

    def clock(self):
        return time.time() + self.shift_s

    def fetch(self, repository, ask=None):
        return fetch_release(self.home, repository.pin, ask=ask or repository.ask, clock=self.clock)

    def put_in_force(self, release):
        with self.database.transaction():
            self.database.set_meta(STATE, ActiveState(active=release, has_previous=True).to_json())

    def in_force(self):
        """What searches would use right now, read from the disk again."""
        release = read_state(self.database).active
        arrays = load_correction(self.home.folder / "models", release).arrays
        return release, {name: array.tobytes() for name, array in arrays.items()}
