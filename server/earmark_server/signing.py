"""The release repository's signed metadata, role by role, and the keys that sign it: files of The Update Framework.

    roles = Roles(folder / "metadata", keys, clock=time.time)
    targets = roles.newest(Targets)
    roles.release(targets)                   # targets, snapshot, timestamp; the last write makes all of it count

Targets and root sign with two of three keys, which may lie elsewhere. Snapshot and timestamp have one key each, which the server needs
every day.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from earmark_server.settings import RESTORE
from earmark_shared.errors import SettingsError, StoreError
from earmark_shared.files import read_private, write_atomic, write_private

DAY = dt.timedelta(days=1)
LIVES = {Root.type: 365 * DAY, Targets.type: 90 * DAY, Snapshot.type: 7 * DAY, Timestamp.type: DAY}
KEYS = {Root.type: (3, 2), Targets.type: (3, 2), Snapshot.type: (1, 1), Timestamp.type: (1, 1)}
"""Keys of a role, and how many of them must sign."""
RELEASING = (Targets.type, Snapshot.type, Timestamp.type)
"""Who signs a release."""
METADATA_BYTES_MOST = 5_000_000
LIFT = 10_000
"""More versions than a server makes in the time between a backup and the loss of what came after it."""
MINUTE = "%Y-%m-%d %H:%M UTC"
S = TypeVar("S", Root, Snapshot, Targets, Timestamp)


class Roles:
    """The metadata below a folder, and who signs it."""

    def __init__(self, folder: Path, keys: Path, *, clock: Callable[[], float]) -> None:
        """Take the folders and a clock in Unix seconds."""
        self._folder, self._keys, self._clock = folder, keys, clock

    def newest(self, kind: type[S]) -> Metadata[S]:
        """Read the newest metadata of a role: what timestamp.json leads to, not what else may lie about.

        Raises:
            StoreError: a file is missing, or can't be read.
        """
        if kind.type == Root.type:
            numbers = [
                int(number) for path in self._folder.glob("*.root.json") if (number := path.name.partition(".")[0]).isdigit()
            ]
            name = f"{max(numbers, default=1)}.root.json"
        elif kind.type == Timestamp.type:
            name = "timestamp.json"
        elif kind.type == Snapshot.type:
            name = f"{self.newest(Timestamp).signed.snapshot_meta.version}.snapshot.json"
        else:
            name = f"{self.newest(Snapshot).signed.meta['targets.json'].version}.targets.json"
        path = self._folder / name
        try:
            metadata = Metadata[S].from_bytes(read_private(path, METADATA_BYTES_MOST))
        except DeserializationError as error:
            raise StoreError(f"{path} can't be read.", hint=RESTORE) from error
        if metadata.signed.type != kind.type:
            raise StoreError(f"{path} is no {kind.type} metadata.", hint=RESTORE)
        return metadata

    def begin(self) -> None:
        """Make every key, and the first metadata of every role, with nothing in it."""
        ends = {role: self.now() + life for role, life in LIVES.items()}
        root = Metadata(Root(1, expires=ends[Root.type], consistent_snapshot=True))
        for role, (count, threshold) in KEYS.items():
            for number in range(1, count + 1):
                root.signed.add_key(_new_key(self._keys / f"{role}-{number}.pem"), role)
            root.signed.roles[role].threshold = threshold
        self._write(self._sign(root), f"1.{Root.type}.json")
        self._write(self._sign(Metadata(Targets(1, expires=ends[Targets.type]))), "1.targets.json")
        self._write(self._sign(Metadata(Snapshot(1, expires=ends[Snapshot.type]))), "1.snapshot.json")
        self._write(self._sign(Metadata(Timestamp(1, expires=ends[Timestamp.type]))), "timestamp.json")

    def release(self, targets: Metadata[Targets], *, lift: bool = False) -> None:
        """Sign targets as the next version, then what names it; with `lift`, versions that no device can have seen.

        Raises:
            SettingsError: too few of a role's keys are here; nothing was released.
        """
        self._check_keys(*RELEASING)
        step = LIFT if lift else 1
        self._renew(targets, step)
        self._write(targets, f"{targets.signed.version}.targets.json")
        snapshot = self.newest(Snapshot)
        snapshot.signed.meta["targets.json"] = MetaFile(version=targets.signed.version)
        self._sign_online(snapshot, step)

    def keep_fresh(self) -> None:
        """Sign the online roles again when half of their time is over; SettingsError if their keys are not here."""
        snapshot = self.newest(Snapshot)
        if self._is_half_over(snapshot.signed):
            self._check_keys(Snapshot.type, Timestamp.type)
            self._sign_online(snapshot, 1)
        elif self._is_half_over(self.newest(Timestamp).signed):
            self._check_keys(Timestamp.type)
            self._stamp(snapshot.signed.version, 1)

    def renew(self) -> list[str]:
        """Sign root if half of its time is over (each device reads every root), and targets for another term.

        Returns:
            Those of the two that were due and lack keys here; they end as before.

        Raises:
            SettingsError: the server's own keys are not here.
        """
        self._check_keys(Snapshot.type, Timestamp.type)
        root = self.newest(Root)
        due = [Root.type, Targets.type] if self._is_half_over(root.signed) else [Targets.type]
        lacking = self.lacking(*due)
        if Root.type in due and Root.type not in lacking:
            self._renew(root, 1)
            self._write(root, f"{root.signed.version}.root.json")
        if Targets.type not in lacking:
            self.release(self.newest(Targets))
        return lacking

    def lacking(self, *roles: str) -> list[str]:
        """Return those of the roles that have too few keys here to sign."""
        return [role for role in roles if len(self._key_paths(role)) < KEYS[role][1]]

    @property
    def ends(self) -> dt.datetime:
        """From when on devices believe no release here unless somebody brings keys: the others are signed anew in time."""
        away = self.lacking(Snapshot.type, Timestamp.type)
        online = [each for each in (self.newest(Snapshot).signed, self.newest(Timestamp).signed) if each.type in away]
        return min(each.expires for each in (self.newest(Root).signed, self.newest(Targets).signed, *online))

    def now(self) -> dt.datetime:
        """Return the time."""
        return dt.datetime.fromtimestamp(int(self._clock()), dt.UTC)

    def _sign_online(self, snapshot: Metadata[Snapshot], step: int) -> None:
        self._renew(snapshot, step)
        self._write(snapshot, f"{snapshot.signed.version}.snapshot.json")
        self._stamp(snapshot.signed.version, step)

    def _stamp(self, snapshot_version: int, step: int) -> None:
        timestamp = self.newest(Timestamp)
        timestamp.signed.snapshot_meta = MetaFile(version=snapshot_version)
        self._renew(timestamp, step)
        self._write(timestamp, "timestamp.json")

    def _renew(self, metadata: Metadata[S], step: int) -> None:
        """Give metadata a later version and a whole life, and sign it."""
        metadata.signed.version += step
        metadata.signed.expires = self.now() + LIVES[metadata.signed.type]
        self._sign(metadata)

    def _sign(self, metadata: Metadata[S]) -> Metadata[S]:
        self._check_keys(metadata.signed.type)
        metadata.signatures.clear()
        for path in self._key_paths(metadata.signed.type):
            metadata.sign(_signer(path), append=True)
        return metadata

    def _check_keys(self, *roles: str) -> None:
        for role in self.lacking(*roles):
            found, needed = len(self._key_paths(role)), KEYS[role][1]
            away = (
                "bring the others" if needed > 1 else f"{RESTORE} Without it no release is believed after {self.ends:{MINUTE}}."
            )
            raise SettingsError(f"{self._keys} holds {found} of the {needed} {role} keys that must sign", hint=away)

    def _key_paths(self, role: str) -> list[Path]:
        return sorted(self._keys.glob(f"{role}-*.pem"))

    def _write(self, metadata: Metadata[S], name: str) -> None:
        write_atomic(self._folder / name, metadata.to_bytes(JSONSerializer(compact=True)))

    def _is_half_over(self, signed: Signed) -> bool:
        return self.now() > signed.expires - LIVES[signed.type] / 2


def _new_key(path: Path) -> Key:
    path.unlink(missing_ok=True)  # of a making that was cut short: nothing was signed with it that anyone trusts
    key = Ed25519PrivateKey.generate()
    write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return CryptoSigner(key).public_key


def _signer(path: Path) -> CryptoSigner:
    try:
        key = load_pem_private_key(read_private(path), None)
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path} can't be read.", hint=RESTORE) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(f"{path} is not an Ed25519 key")
    return CryptoSigner(key)
