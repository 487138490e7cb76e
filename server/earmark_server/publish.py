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

from tuf.api.metadata import TargetFile, Targets

from earmark_server.signing import LIFT, MINUTE, RELEASING, Roles
from earmark_shared.base_head import base_arrays, base_schema, base_version
from earmark_shared.errors import HomeExistsError, ReleaseError
from earmark_shared.files import FileLock, make_private_folder, read_private, write_atomic
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


class Repository:
    """An open repository; its lock keeps two programs from publishing at once."""

    def __init__(self, folder: Path, keys: Path, *, clock: Callable[[], float]) -> None:
        """Take the folders and a clock in Unix seconds."""
        self.folder = folder
        self._roles = Roles(folder / "metadata", keys, clock=clock)
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
        """Release the head of release `number` again, as the newest; 0 is the head that rounds began with.

        Raises:
            ReleaseError: there was no such release, or its head is the newest already. SettingsError: too few of the keys are here.
        """
        with self._lock:
            current = self.current()
            if current is None:
                raise ReleaseError("Nothing was released yet.")
            if number > current.number:
                raise ReleaseError(f"There is no release {number}: the newest is {current.number}.")
            old = self.find(number) if number else _first_release()
            if (old.base, old.head_sha256) == (current.base, current.head_sha256):
                raise ReleaseError(f"Devices have the head of release {number} already: it is the newest, {current.number}.")
            schema, head = self._files(old) if number else _first_files()
            undone = undoing(current.undone, number, current.number)
            again = Release(current.number + 1, old.base, old.head_sha256, old.schema_sha256, undone)
            self._release(again, schema, head)
        return again

    def lift(self) -> Release | None:
        """After an older copy was put back: sign all of it, the newest release too, under numbers that no device has seen.

        What was released between the copy and now is lost; whoever has it goes back without a wait, as after `take_back`.

        Raises:
            SettingsError: too few of the keys are here.
        """
        with self._lock:
            current = self.current()
            if current is None:
                self._roles.release(self._roles.newest(Targets), lift=True)
                return None
            undone = undoing(current.undone, current.number, current.number + LIFT - 1)
            again = Release(current.number + LIFT, current.base, current.head_sha256, current.schema_sha256, undone)
            self._release(again, *self._files(current), lift=True)
            for path in (self.folder / "history").glob("*.json"):
                if current.number < int(path.stem) < again.number:
                    path.unlink()  # of a release that was cut short
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
        entry = self._roles.newest(Targets).signed.targets.get(RELEASE_NAME)
        return None if entry is None else Release.from_json(self._target(RELEASE_NAME, entry.hashes["sha256"]))

    def head(self, release: Release) -> tuple[HeadSchema, dict[str, Floats]]:
        """Return a release's schema and arrays; ModelError if the files are not those that it names."""
        return open_release(release, *self._files(release))

    def find(self, number: int) -> Release:
        """Return a release by its number; ReleaseError if there is none."""
        path = self._history(number)
        if not path.exists():
            raise ReleaseError(f"There is no release {number}.")
        return Release.from_json(read_private(path))

    def keep_fresh(self) -> None:
        """Sign the online roles again when half of their time is over: what a server does every now and then."""
        with self._lock:
            self._roles.keep_fresh()

    def can_sign(self) -> bool:
        """Whether enough keys are here to release something."""
        return not self._roles.lacking(*RELEASING)

    def renew(self) -> list[str]:
        """Sign for another term what is due; return the roles that lack keys for it (`Roles.renew`)."""
        with self._lock:
            return self._roles.renew()

    def check_believed(self) -> None:
        """Check that devices still believe what is released here: a round needs their newest head.

        Raises:
            ReleaseError: too long ago somebody signed.
        """
        if self._roles.now() >= self.ends:
            raise ReleaseError(
                f"No device believes a release here since {self.ends:{MINUTE}}.", hint="Bring the keys: earmark-server renew DIR"
            )

    @property
    def ends(self) -> dt.datetime:
        """From when on devices believe no release here unless somebody brings keys."""
        return self._roles.ends

    def _release(self, release: Release, schema_json: bytes, head: bytes, *, lift: bool = False) -> None:
        targets = self._roles.newest(Targets)
        files = {RELEASE_NAME: release.to_json(), SCHEMA_NAME: schema_json, release.head_name: head}
        entries = {name: TargetFile.from_data(name, data, ["sha256"]) for name, data in files.items()}
        for name, data in files.items():
            write_atomic(self._target_path(name, entries[name].hashes["sha256"]), data)
        write_atomic(self._history(release.number), release.to_json())
        targets.signed.targets = entries
        self._roles.release(targets, lift=lift)

    def _files(self, release: Release) -> tuple[bytes, bytes]:
        """Return the bytes of a release's schema and head; ModelError if they are not those that it names."""
        schema = self._target(SCHEMA_NAME, release.schema_sha256)
        head = self._target(release.head_name, release.head_sha256)
        open_release(release, schema, head)
        return schema, head

    def _history(self, number: int) -> Path:
        return self.folder / "history" / f"{number}.json"

    def _target(self, name: str, digest: str) -> bytes:
        return read_private(self._target_path(name, digest), HEAD_BYTES_MOST)

    def _target_path(self, name: str, digest: str) -> Path:
        return self.folder / "targets" / f"{digest}.{name}"


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
    Roles(folder / "metadata", keys, clock=clock).begin()
    write_atomic(first, (folder / "metadata" / "1.root.json").read_bytes())
    return Repository(folder, keys, clock=clock)


def _first_files() -> tuple[bytes, bytes]:
    """Return the schema and the head that rounds begin with, before any release."""
    return base_schema().to_json().encode(), dump_head(base_schema(), base_arrays())


def _first_release() -> Release:
    schema, head = _first_files()
    return Release(1, base_version(), sha256_hex(head), sha256_hex(schema))
