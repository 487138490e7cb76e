"""One connection to the encrypted database: how it is opened, what a transaction is, what its faults are called."""

from __future__ import annotations

import contextlib
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

from sqlcipher3 import dbapi2

from earmark_client.store.schema import migrate
from earmark_shared.errors import DiskFullError, HomeInUseError, HomeMissingError, StoreError, TamperedError, WrongKeyError
from earmark_shared.files import write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    Value = str | int | float | bytes | None

BUSY_S = 10.0
ROWS_AT_ONCE = 128
PAGE_BYTES = 16_384
"""Four times SQLCipher's default: a megabyte of vectors reads a quarter faster, for one HMAC a page instead of four."""
CACHE_KIB = 32_768
"""The rows and words of 50,000 clips: with SQLite's 2 MB each hit of a search decrypts pages again."""

BEFORE_FIRST_READ = (
    "PRAGMA cipher_memory_security = ON",
    f"PRAGMA cipher_page_size = {PAGE_BYTES}",
)
AFTER_FIRST_READ = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA secure_delete = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA foreign_keys = ON",
    "PRAGMA recursive_triggers = OFF",
    f"PRAGMA cache_size = -{CACHE_KIB}",
)
DAMAGED = {dbapi2.SQLITE_CORRUPT, dbapi2.SQLITE_NOTADB, dbapi2.SQLITE_FORMAT}
UNWRITABLE = {dbapi2.SQLITE_READONLY, dbapi2.SQLITE_CANTOPEN, dbapi2.SQLITE_PERM}
BUSY = {dbapi2.SQLITE_BUSY, dbapi2.SQLITE_LOCKED}


@contextlib.contextmanager
def store_errors(path: Path | None = None, *, writing: bool = False) -> Iterator[None]:
    """Translate SQLCipher's exceptions into ours; no message of theirs, which may quote data, is passed on.

    `writing`: an input/output error is then a quota or a file size limit, which SQLite tells apart from a full disk.
    """
    try:
        yield
    except dbapi2.Error as error:
        if path is not None and _code(error) in UNWRITABLE:
            hint = "Even a search writes beside the database: check the folder's owner and permissions, or copy the whole home."
            raise StoreError(f"{path} can't be opened for writing.", hint=hint) from error
        raise _translate(error, writing=writing) from error


def _translate(error: dbapi2.Error, *, writing: bool) -> StoreError:
    code = _code(error)
    if code == dbapi2.SQLITE_FULL or (writing and code == dbapi2.SQLITE_IOERR):
        return DiskFullError(hint="Make room on the disk and run the command again.")
    if code in BUSY:
        return HomeInUseError(hint="Wait for it to end, or stop it.")
    if code in DAMAGED or code == dbapi2.SQLITE_IOERR or (code == dbapi2.SQLITE_ERROR and "logic" in str(error)):
        return TamperedError(hint="Restore the home from a backup, or erase it and add your recordings again.")
    return StoreError(f"The database refused: {getattr(error, 'sqlite_errorname', type(error).__name__)}.")


def _code(error: dbapi2.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


class Connection:
    """An open database; use it from one thread at a time, and open another for another thread."""

    def __init__(self, connection: dbapi2.Connection, on_commit: Callable[[int], None] | None = None) -> None:
        """Wrap a connection that `open` or `create` has prepared; `on_commit` hears the epoch of each commit."""
        self._connection = connection
        self._on_commit = on_commit
        self._depth = 0
        self.read_only = False

    @classmethod
    def create(cls, path: Path, key: bytes, on_commit: Callable[[int], None] | None = None) -> Self:
        """Make a new database, 0600, as its log will be; a file that exists is opened as it is."""
        if not path.exists():
            write_private(path, b"")
        with store_errors(path):
            return cls(_connect(path, key), on_commit)

    @classmethod
    def open(cls, path: Path, key: bytes, on_commit: Callable[[int], None] | None = None) -> Self:
        """Open a database: HomeMissingError, WrongKeyError, TamperedError, NewerSchemaError, HomeInUseError."""
        if not path.exists():
            raise HomeMissingError(f"There is no database at {path}.", hint="Restore the home from a backup.")
        with store_errors(path):
            return cls(_connect(path, key), on_commit)

    def close(self) -> None:
        """Fold the write-ahead log into the database and close it."""
        with store_errors():
            self._connection.close()

    def __enter__(self) -> Self:
        """Use as a context manager: closed at the end."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close."""
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside become visible at once, on the disk for good, or not at all; a nested one joins the outer one."""
        if self._depth:
            yield
            return
        if self.read_only:
            raise StoreError("This library is open for reading only.")
        with store_errors():
            self._connection.execute("BEGIN IMMEDIATE")
        self._depth = 1
        try:
            yield
            self._sql("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")
            epoch = self.epoch
            with self._errors():
                self._connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._depth = 0
        if self._on_commit is not None:
            self._on_commit(epoch)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside belongs to one moment, whatever a writer commits meanwhile."""
        if self._connection.in_transaction:
            yield
            return
        with store_errors():
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._roll_back()

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Run one statement of a table that is kept elsewhere (the privacy ledger) and return its rows.

        A change outside a transaction is refused, as any.
        """
        if statement.startswith("SELECT "):
            return self._all(statement, values)
        return self._fetch(self._write(statement, values))

    @property
    def epoch(self) -> int:
        """How many transactions this database has committed."""
        return int(self._one("SELECT value FROM meta WHERE key = 'epoch'")[0])

    def get_meta(self, key: str, default: Value = None) -> Value:
        """The value stored under `key`."""
        row = self._first("SELECT value FROM meta WHERE key = ?", (key,))
        value: Value = default if row is None else row[0]
        return value

    def set_meta(self, key: str, value: Value) -> None:
        """Store a value under `key`."""
        self._write("INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value))

    def federation_value(self, name: str) -> bytes | None:
        """The blob that the federation keeps under `name`."""
        row = self._first("SELECT value FROM federation WHERE name = ?", (name,))
        return None if row is None else bytes(row[0])

    def set_federation_value(self, name: str, value: bytes | None) -> None:
        """Keep a blob under `name`; None forgets it."""
        if value is None:
            self._write("DELETE FROM federation WHERE name = ?", (name,))
        else:
            self._write("INSERT OR REPLACE INTO federation VALUES (?, ?)", (name, value))

    def verify(self) -> None:
        """Read every page and check it: HMACs, structure, references; TamperedError names nothing but the fact."""
        checks = ("PRAGMA cipher_integrity_check", "PRAGMA integrity_check", "PRAGMA foreign_key_check")
        for check in checks:
            if [row for row in self._all(check) if row != ("ok",)]:
                raise TamperedError(hint="Restore the home from a backup, or erase it and add your recordings again.")

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return store_errors(writing=self._depth > 0)

    def _roll_back(self) -> None:
        with contextlib.suppress(dbapi2.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _sql(self, statement: str, values: Sequence[Any] = ()) -> dbapi2.Cursor:
        with self._errors():
            return self._connection.execute(statement, values)

    def _write(self, statement: str, values: Sequence[Any] = ()) -> dbapi2.Cursor:
        """Run a change; outside a transaction it would skip the epoch, so that is refused."""
        if not self._depth:
            raise StoreError("A change was tried outside a transaction.")
        return self._sql(statement, values)

    def _write_many(self, insert: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run `insert`, which ends in VALUES, for rows of one length, many a statement: each statement's end costs far more than a row."""
        given, start = list(rows), 0
        while start < len(given):
            # Powers of two: few texts, so that they stay prepared. Preparing one costs far more than running it.
            count = min(1 << ((len(given) - start).bit_length() - 1), ROWS_AT_ONCE)
            part, start = given[start : start + count], start + count
            places = f"({', '.join('?' * len(part[0]))})"
            self._write(f"{insert} {', '.join([places] * count)}", [*chain.from_iterable(part)])

    def _fetch(self, cursor: dbapi2.Cursor, rows: int = 50_000) -> list[Any]:
        with self._errors():
            return list(cursor.fetchmany(rows))

    def _all(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._errors():
            return list(self._connection.execute(statement, values).fetchall())

    def _first(self, statement: str, values: Sequence[Any] = ()) -> Any:  # noqa: ANN401  (a row's columns are SQLite's)
        with self._errors():
            return self._connection.execute(statement, values).fetchone()

    def _one(self, statement: str, values: Sequence[Any] = ()) -> Any:  # noqa: ANN401
        row = self._first(statement, values)
        if row is None:
            raise TamperedError
        return row


def _connect(path: Path, key: bytes) -> dbapi2.Connection:
    # Autocommit: only `transaction` begins one. The statement cache is small since statements are few.
    connection = dbapi2.connect(str(path), timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA cipher_log_level = NONE")  # it would print to stderr what went wrong with which file
        connection.execute(f"PRAGMA key = \"x'{key.hex()}'\"")
        for pragma in BEFORE_FIRST_READ:
            connection.execute(pragma)
        _prove_key(connection)
        for pragma in AFTER_FIRST_READ:
            connection.execute(pragma).fetchall()
        migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prove_key(connection: dbapi2.Connection) -> None:
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except dbapi2.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) == dbapi2.SQLITE_NOTADB:
            raise WrongKeyError from error
        raise
