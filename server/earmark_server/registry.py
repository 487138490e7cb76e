"""The registry: invitations, devices and the enrolment log, in one SQLite file (0600) that several processes may open.

Nothing in it is secret but whom it lists: tokens are there as hashes, keys as public keys. The log's rows can't be changed or
deleted by any statement of ours (triggers see to it); who changes the file is found out by every device that saw an older head.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from earmark_server.settings import RESTORE
from earmark_shared.crypto.enrol_log import Change, Entry
from earmark_shared.crypto.hashing import digest
from earmark_shared.errors import DiskFullError, StoreError
from earmark_shared.files import write_private

BUSY_S = 10.0
FULL = frozenset({"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_WRITE"})
RESTORE_IT = f"{RESTORE} Without it every device must join again."
SCHEMA = (
    """CREATE TABLE IF NOT EXISTS invitations (
        token_sha256 BLOB PRIMARY KEY,
        created_s INTEGER NOT NULL,
        expires_s INTEGER NOT NULL,
        alias BLOB) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS devices (
        alias BLOB PRIMARY KEY,
        identity BLOB NOT NULL UNIQUE,
        node_key BLOB NOT NULL UNIQUE,
        certificate BLOB NOT NULL,
        is_lab INTEGER NOT NULL,
        joined_s INTEGER NOT NULL,
        log_index INTEGER NOT NULL,
        revoked_s INTEGER,
        is_node INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS log (number INTEGER PRIMARY KEY, entry BLOB NOT NULL)",
    "CREATE TRIGGER IF NOT EXISTS log_no_update BEFORE UPDATE ON log BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
    "CREATE TRIGGER IF NOT EXISTS log_no_delete BEFORE DELETE ON log BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
)


@dataclass(frozen=True)
class Device:
    """One enrolled device, or one that was."""

    alias: bytes
    identity: bytes
    node_key: bytes
    """SubjectPublicKeyInfo, DER; `nodes.public_openssh` writes it for Flower."""
    certificate: bytes
    """The newest that was issued; the log's entry of its joining has the first one's hash."""
    is_lab: bool
    joined_s: int
    log_index: int
    revoked_s: int | None = None
    is_node: bool = False
    """Whether Flower's server has been told of its node key (or, once revoked, still knows it)."""


@dataclass(frozen=True)
class Invitation:
    """One token's hash, until when it is good, and who used it."""

    expires_s: int
    alias: bytes | None


class Registry:
    """An open registry; safe to use from several threads."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open the file that `create` made; `read_only` needs no room on the disk.

        Raises:
            StoreError: it is missing or is no registry: an empty one in its place would know nobody. DiskFullError: there is no room.
        """
        if not path.exists():
            raise StoreError(f"{path} is missing.", hint=RESTORE_IT)
        self._path, self._lock = path, threading.RLock()
        with _errors(path):
            self._connection = self._open_to_read() if read_only else self._connect("mode=rw")
            if not self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'devices'").fetchone():
                raise StoreError(f"{path} is no registry.", hint=RESTORE_IT)
            if not read_only:
                _prepare(self._connection)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make an empty registry, and open it: for a new server.

        Raises:
            StoreError: there is a file.
        """
        write_private(path, b"")
        with _errors(path), contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            _prepare(connection)
        return cls(path)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        """Use as a context manager: closed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside are on the disk when it ends, or none; other threads and processes wait."""
        with self._lock, _errors(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def add_invitation(self, token: bytes, *, now_s: int, expires_s: int) -> None:
        """Remember a token's hash."""
        self._do("INSERT INTO invitations VALUES (?, ?, ?, NULL)", (_token_hash(token), now_s, expires_s))

    def invitation(self, token: bytes) -> Invitation | None:
        """Return what is known of a token."""
        rows = self._do("SELECT expires_s, alias FROM invitations WHERE token_sha256 = ?", (_token_hash(token),))
        return Invitation(*rows[0]) if rows else None

    def use_invitation(self, token: bytes, alias: bytes) -> None:
        """Remember who used a token."""
        self._do("UPDATE invitations SET alias = ? WHERE token_sha256 = ?", (alias, _token_hash(token)))

    def forget_invitations(self, *, before_s: int) -> None:
        """Drop what expired before then."""
        self._do("DELETE FROM invitations WHERE expires_s < ?", (before_s,))

    def add_device(self, device: Device) -> None:
        """Add a device; StoreError if its alias or one of its keys is known already, revoked or not."""
        values = (
            device.alias,
            device.identity,
            device.node_key,
            device.certificate,
            device.is_lab,
            device.joined_s,
            device.log_index,
        )
        marks = "alias, identity, node_key, certificate, is_lab, joined_s, log_index"
        self._do(f"INSERT INTO devices ({marks}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)  # noqa: S608  constants only

    def device(self, alias: bytes) -> Device | None:
        """Return a device by its alias."""
        rows = self._do("SELECT * FROM devices WHERE alias = ?", (alias,))
        return _device(rows[0]) if rows else None

    def knows_key(self, identity: bytes, node_key: bytes) -> bool:
        """Whether either key was ever enrolled."""
        return bool(self._do("SELECT 1 FROM devices WHERE identity = ? OR node_key = ?", (identity, node_key)))

    def devices(self) -> list[Device]:
        """Return every device, in the order they joined."""
        return [_device(row) for row in self._do("SELECT * FROM devices ORDER BY log_index")]

    def set_revoked(self, alias: bytes, *, at_s: int) -> None:
        """Shut a device out."""
        self._do("UPDATE devices SET revoked_s = ? WHERE alias = ?", (at_s, alias))

    def set_certificate(self, alias: bytes, certificate: bytes) -> None:
        """Keep a device's newest enrolment certificate."""
        self._do("UPDATE devices SET certificate = ? WHERE alias = ?", (certificate, alias))

    def set_node(self, alias: bytes, *, is_node: bool) -> None:
        """Remember whether Flower's server knows the device's node key."""
        self._do("UPDATE devices SET is_node = ? WHERE alias = ?", (is_node, alias))

    def unsettled_nodes(self) -> list[Device]:
        """Return the devices that Flower's server must be told of: enrolled and unknown to it, or revoked and still known."""
        return [device for device in self.devices() if device.is_node != (device.revoked_s is None)]

    def revoked(self) -> list[bytes]:
        """Return every revoked alias, sorted."""
        return [alias for (alias,) in self._do("SELECT alias FROM devices WHERE revoked_s IS NOT NULL ORDER BY alias")]

    def append_log(self, change: Change, device: Device, cert_sha256: bytes, *, at_s: int) -> int:
        """Add an entry to the log; return its index."""
        entry = Entry(change, device.alias, cert_sha256, at_s, device.is_lab)
        index: int = self._do("SELECT count(*) FROM log")[0][0]
        self._do("INSERT INTO log VALUES (?, ?)", (index, entry.encode()))
        return index

    def log(self) -> list[bytes]:
        """Return every entry, encoded, in order."""
        return [entry for (entry,) in self._do("SELECT entry FROM log ORDER BY number")]

    def _connect(self, how: str) -> sqlite3.Connection:
        place = f"{self._path.absolute().as_uri()}?{how}"
        return sqlite3.connect(place, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)

    def _open_to_read(self) -> sqlite3.Connection:
        """Without its index of the journal, for which a full disk has no room, a file can be read that nobody is writing to."""
        connection = self._connect("mode=ro")
        try:
            connection.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.OperationalError:
            connection.close()
            journal = self._path.with_name(f"{self._path.name}-wal")
            if journal.exists() and journal.stat().st_size:
                raise
            connection = self._connect("mode=ro&immutable=1")
        return connection

    def _do(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock, _errors(self._path):
            return self._connection.execute(statement, values).fetchall()


def _prepare(connection: sqlite3.Connection) -> None:
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}")
    for statement in SCHEMA:
        connection.execute(statement)


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        if name in FULL:
            raise DiskFullError(
                f"There is no room for {path}.", hint="Make room on the disk and run the command again."
            ) from error
        hint = RESTORE_IT if name in {"SQLITE_NOTADB", "SQLITE_CORRUPT"} else ""
        raise StoreError(f"{path} can't be used: {name}.", hint=hint) from error


def _token_hash(token: bytes) -> bytes:
    return digest("earmark/enrol/token", token)


def _device(row: Sequence[Any]) -> Device:
    alias, identity, node_key, certificate, is_lab, joined_s, log_index, revoked_s, is_node = row
    return Device(alias, identity, node_key, certificate, bool(is_lab), joined_s, log_index, revoked_s, bool(is_node))
