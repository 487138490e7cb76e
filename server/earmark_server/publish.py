"""The release repository: what is released, signed so that a device needs to trust neither the network nor this server.

    repository = create_repository(folder / "releases", folder / "keys", clock=time.time)
    release = repository.publish(arrays, schema, base="base-4d1f0c2a9b7e")
    repository.take_back(1)                  # a new release of an older head: numbers never go down

It is a repository of The Update Framework. Two of three root keys and two of three targets keys sign by hand and may lie on other
machines, or in other people's drawers: without them a server that was broken into can release nothing. The snapshot and timestamp
keys stay with the server and only say which of the signed releases is the newest, anew every day.

folder/root.json     the first root; its hash is in every invitation
folder/metadata      signed metadata; timestamp.json is written last, so a crash leaves the release before
folder/targets       the released files, named by their hashes
folder/history       every release by its number
keys/ROLE-N.pem      private keys, 0600
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from earmark_shared.base_head import base_arrays, base_schema
from earmark_shared.errors import HomeExistsError, ReleaseError, SettingsError
from earmark_shared.files import FileLock, make_private_folder, read_private, write_atomic, write_private
from earmark_shared.head import Arrays, Floats, HeadSchema
from earmark_shared.release import (
    HEAD_BYTES_MOST,
    RELEASE_NAME,
    SCHEMA_NAME,
    Ranges,
    Release,
    dump_head,
    make_release,
    open_release,
    sha256_hex,
    undoing,
)

DAY = dt.timedelta(days=1)
LIVES = {Root.type: 365 * DAY, Targets.type: 90 * DAY, Snapshot.type: 7 * DAY, Timestamp.type: DAY}
KEYS = {Root.type: (3, 2), Targets.type: (3, 2), Snapshot.type: (1, 1), Timestamp.type: (1, 1)}
"""Keys of a role, and how many of them must sign."""
METADATA_BYTES_MOST = 5_000_000
S = TypeVar("S", Root, Snapshot, Targets, Timestamp)


class Repository:
    """An open repository; its lock keeps two programs from publishing at once."""

    def __init__(self, folder: Path, keys: Path, *, clock: Callable[[], float]) -> None:
        """Take the folders and a clock in Unix seconds."""
        self.folder, self._keys, self._clock = folder, keys, clock
        self._lock = FileLock(folder / "lock")

    def publish(self, arrays: Arrays, schema: HeadSchema, *, base: str, number: int | None = None) -> Release:
        """Sign and release a head that corrects the model version `base`; under `number`, or the next one.

        Asked again for what is the newest release already, it does nothing twice.

        Raises:
            ModelError: the arrays don't fit the schema. SettingsError: too few of the keys are here.
            ReleaseError: `number` is not above the newest release's.
        """
        head = dump_head(schema, arrays)
        with self._lock:
            current = self.current()
            latest = current.number if current else 0
            undone = self._undone_by(sha256_hex(head), current)
            release = make_release(latest + 1 if number is None else number, base, schema, head, undone=undone)
            if release == current:
                return release
            if release.number <= latest:
                raise ReleaseError(f"Release {latest} is out; {release.number} can't follow it.")
            self._release(release, schema.to_json().encode(), head)
        return release

    def take_back(self, number: int) -> Release:
        """Release the head of release `number` again, as the newest; ReleaseError if there is none."""
        with self._lock:
            current, old = self.current(), self.find(number)
            if current is None:
                raise ReleaseError("Nothing was released yet.")
            undone = undoing(current.undone, number, current.number)
            again = Release(current.number + 1, old.base, old.head_sha256, old.schema_sha256, undone)
            self.head(old)
            schema, head = self._target(SCHEMA_NAME, old.schema_sha256), self._target(old.head_name, old.head_sha256)
            self._release(again, schema, head)
        return again

    def _undone_by(self, head_sha256: str, current: Release | None) -> Ranges:
        """What is undone with this head as the newest: all after it, if it was out before or is the one that rounds began with."""
        if current is None or head_sha256 == current.head_sha256:
            return current.undone if current else ()
        releases = [Release.from_json(read_private(path)) for path in (self.folder / "history").glob("*.json")]
        # A release that was cut short stands in the history already; it isn't out.
        old = [release.number for release in releases if release.number < current.number and release.head_sha256 == head_sha256]
        if not old and head_sha256 != sha256_hex(dump_head(base_schema(), base_arrays())):
            return current.undone
        return undoing(current.undone, max(old, default=0), current.number)

    def current(self) -> Release | None:
        """Return the newest release, or None before the first."""
        entry = self._newest(Targets).signed.targets.get(RELEASE_NAME)
        return None if entry is None else Release.from_json(self._target(RELEASE_NAME, entry.hashes["sha256"]))

    def head(self, release: Release) -> tuple[HeadSchema, dict[str, Floats]]:
        """Return a release's schema and arrays; ModelError if the files are not those that it names."""
        schema, head = self._target(SCHEMA_NAME, release.schema_sha256), self._target(release.head_name, release.head_sha256)
        return open_release(release, schema, head)

    def find(self, number: int) -> Release:
        """Return a release by its number; ReleaseError if there is none."""
        path = self.folder / "history" / f"{number}.json"
        if not path.exists():
            raise ReleaseError(f"There is no release {number}.")
        return Release.from_json(read_private(path))

    def keep_fresh(self) -> None:
        """Sign the online roles again when half of their time is over: what a server does every now and then."""
        with self._lock:
            snapshot = self._newest(Snapshot)
            if self._is_half_over(snapshot.signed):
                self._sign_online(snapshot)
            elif self._is_half_over(self._newest(Timestamp).signed):
                self._stamp(snapshot.signed.version)

    def can_sign(self) -> bool:
        """Whether enough of every role's keys are here to release something."""
        return all(len(self._key_paths(role)) >= threshold for role, (_, threshold) in KEYS.items())

    def renew(self) -> None:
        """Sign targets for another term, and root when half of its own is over, with the offline keys: each device reads every root."""
        with self._lock:
            root, targets = self._newest(Root), self._newest(Targets)
            if self._is_half_over(root.signed):
                self._renew(root)
                self._write(root, f"{root.signed.version}.root.json")
            self._release_targets(targets)

    @property
    def ends(self) -> dt.datetime:
        """From when on devices believe no release here unless the offline keys sign again."""
        return min(self._newest(Root).signed.expires, self._newest(Targets).signed.expires)

    def _release(self, release: Release, schema_json: bytes, head: bytes) -> None:
        targets = self._newest(Targets)
        files = {RELEASE_NAME: release.to_json(), SCHEMA_NAME: schema_json, release.head_name: head}
        entries = {name: TargetFile.from_data(name, data, ["sha256"]) for name, data in files.items()}
        for name, data in files.items():
            write_atomic(self._target_path(name, entries[name].hashes["sha256"]), data)
        write_atomic(self.folder / "history" / f"{release.number}.json", release.to_json())
        targets.signed.targets = entries
        self._release_targets(targets)

    def _release_targets(self, targets: Metadata[Targets]) -> None:
        self._renew(targets)
        self._write(targets, f"{targets.signed.version}.targets.json")
        snapshot = self._newest(Snapshot)
        snapshot.signed.meta["targets.json"] = MetaFile(version=targets.signed.version)
        self._sign_online(snapshot)

    def _sign_online(self, snapshot: Metadata[Snapshot]) -> None:
        self._renew(snapshot)
        self._write(snapshot, f"{snapshot.signed.version}.snapshot.json")
        self._stamp(snapshot.signed.version)

    def _stamp(self, snapshot_version: int) -> None:
        timestamp = self._newest(Timestamp)
        timestamp.signed.snapshot_meta = MetaFile(version=snapshot_version)
        self._renew(timestamp)
        self._write(timestamp, "timestamp.json")

    def _renew(self, metadata: Metadata[S]) -> None:
        """Give metadata the next version and a whole life, and sign it."""
        metadata.signed.version += 1
        metadata.signed.expires = self._now() + LIVES[metadata.signed.type]
        self._sign(metadata)

    def _sign(self, metadata: Metadata[S]) -> None:
        role = metadata.signed.type
        paths = self._key_paths(role)
        if len(paths) < KEYS[role][1]:
            raise SettingsError(
                f"{self._keys} holds {len(paths)} of the {KEYS[role][1]} {role} keys that must sign", hint="bring the others"
            )
        metadata.signatures.clear()
        for path in paths:
            metadata.sign(_signer(read_private(path)), append=True)

    def _key_paths(self, role: str) -> list[Path]:
        return sorted(self._keys.glob(f"{role}-*.pem"))

    def _newest(self, kind: type[S]) -> Metadata[S]:
        """Read the newest metadata of a role: what timestamp.json leads to, not what else may lie about."""
        folder = self.folder / "metadata"
        if kind.type == Root.type:
            names = [path.name for path in folder.glob("*.root.json")]
            name = f"{max(int(name.partition('.')[0]) for name in names)}.root.json"
        elif kind.type == Timestamp.type:
            name = "timestamp.json"
        elif kind.type == Snapshot.type:
            name = f"{self._newest(Timestamp).signed.snapshot_meta.version}.snapshot.json"
        else:
            name = f"{self._newest(Snapshot).signed.meta['targets.json'].version}.targets.json"
        return Metadata[S].from_bytes(read_private(folder / name, METADATA_BYTES_MOST))

    def _write(self, metadata: Metadata[S], name: str) -> None:
        write_atomic(self.folder / "metadata" / name, metadata.to_bytes(JSONSerializer(compact=True)))

    def _target(self, name: str, digest: str) -> bytes:
        return read_private(self._target_path(name, digest), HEAD_BYTES_MOST)

    def _target_path(self, name: str, digest: str) -> Path:
        return self.folder / "targets" / f"{digest}.{name}"

    def _is_half_over(self, signed: Signed) -> bool:
        return self._now() > signed.expires - LIVES[signed.type] / 2

    def _now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(int(self._clock()), dt.UTC)


def create_repository(folder: Path, keys: Path, *, clock: Callable[[], float]) -> Repository:
    """Make a repository with nothing released yet, and every key for it.

    Raises:
        HomeExistsError: there is one.
    """
    first = folder / "root.json"
    if first.exists():
        raise HomeExistsError(f"There is a release repository in {folder} already.")
    for inner in (folder, folder / "metadata", folder / "targets", folder / "history", keys):
        make_private_folder(inner)
    repository = Repository(folder, keys, clock=clock)
    now = repository._now()  # noqa: SLF001  its own maker
    ends = {role: now + life for role, life in LIVES.items()}
    root = Metadata(Root(1, expires=ends[Root.type], consistent_snapshot=True))
    for role, (count, threshold) in KEYS.items():
        for number in range(1, count + 1):
            root.signed.add_key(_new_key(keys / f"{role}-{number}.pem"), role)
        root.signed.roles[role].threshold = threshold
    _write_first(repository, (root, f"1.{Root.type}.json"))
    _write_first(repository, (Metadata(Targets(1, expires=ends[Targets.type])), "1.targets.json"))
    _write_first(repository, (Metadata(Snapshot(1, expires=ends[Snapshot.type])), "1.snapshot.json"))
    _write_first(repository, (Metadata(Timestamp(1, expires=ends[Timestamp.type])), "timestamp.json"))
    write_atomic(first, (folder / "metadata" / "1.root.json").read_bytes())
    return repository


def _write_first(repository: Repository, made: tuple[Metadata[S], str]) -> None:
    metadata, name = made
    repository._sign(metadata)  # noqa: SLF001
    repository._write(metadata, name)  # noqa: SLF001


def _new_key(path: Path) -> Key:
    path.unlink(missing_ok=True)  # of a making that was cut short: nothing was signed with it that anyone trusts
    key = Ed25519PrivateKey.generate()
    write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return CryptoSigner(key).public_key


def _signer(pem: bytes) -> CryptoSigner:
    key = load_pem_private_key(pem, None)
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError("a release key is not an Ed25519 key")
    return CryptoSigner(key)
