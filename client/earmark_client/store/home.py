"""A home: the folder with one person's encrypted library, and who may do what with it at the same time.

    key.json     the wrapped data key (keys.py)
    library.db   the database, with its write-ahead log beside it while open
    seal.json    how far the library had come, authenticated; in keyring mode this lies in the keyring instead
    models       released heads and their signed metadata (public), once there was an update
    lock         held by whoever changes the library; readers need none
    earmark-unfinished   only while a home is made

The seal notices a database that is older than the last one seen. In keyring mode it lies outside the home, so a restored copy of
the whole home is noticed too; with a key file or a passphrase only a restored *database* is: whoever can put back the whole
folder puts back the seal as well, and no file inside it can say so.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import shutil
from typing import TYPE_CHECKING, Literal, Self

from earmark_client.store import keys
from earmark_client.store.database import Database
from earmark_client.store.keys import DATABASE_NAME, KEY_BYTES, UNFINISHED_NAME, Keyring, Secret
from earmark_shared.errors import HomeExistsError, RollbackError, StoreError, TamperedError, WrongKeyError
from earmark_shared.files import (
    FileLock,
    disk_errors,
    make_private_folder,
    read_private,
    scratch_files,
    sync_folder,
    write_atomic,
)

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

Older = Literal["refuse", "read", "accept"]
ANCHOR_DUE = "ledger anchor due"
"""Set where a keyring has come to open the library: it can't remember yet how far a privacy ledger there is had come."""
SEAL_NAME = "seal.json"
DATA_NAMES = (DATABASE_NAME, f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm", SEAL_NAME)
LOCK_NAME = "lock"
MODELS_NAME = "models"
MODELS_OURS = (
    *("head-*.safetensors", "schema-*.json", "tuf-*", "incoming", "imported", "shipped", "participate.lock"),
    *(".head-*.safetensors.*", ".schema-*.json.*"),
)
"""Patterns of what Earmark puts there; the last two are what a killed writer leaves."""
OLDER_HINT = "If you restored a backup on purpose, say so; what was added since is not in it."


class Seal:
    """Remembers the newest epoch that was committed, where whoever swaps the database file can't reach or can't forge it."""

    def __init__(self, folder: Path, secret: Secret, data_key: bytes, home_id: str) -> None:
        """Bind the seal to a home and its data key."""
        self._path = folder / SEAL_NAME
        self._keyring = secret.open() if isinstance(secret, Keyring) else None
        self._key = keys.derive(data_key, "seal")
        self._home_id = home_id

    def write(self, epoch: int) -> None:
        """Remember `epoch`; called after its commit, so a crash in between leaves a seal that is too old, never too new."""
        seal = f"{epoch} {self._code(epoch)}"
        if self._keyring is not None:
            self._keyring.store_seal(self._home_id, seal)
        else:
            write_atomic(self._path, seal.encode() + b"\n")

    def read(self) -> int:
        """The epoch remembered: RollbackError if there is none any more, TamperedError if it isn't ours."""
        if self._keyring is not None:
            seal = self._keyring.seal(self._home_id)
        else:
            seal = read_private(self._path, limit=4096).decode(errors="replace") if self._path.exists() else None
        if seal is None:
            raise RollbackError("The library's seal is gone, so it may be older than it was.", hint=OLDER_HINT)
        digits = seal.partition(" ")[0]
        epoch = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 19 else -1
        written = f"{epoch} {self._code(epoch)}"
        if not hmac.compare_digest(seal.removesuffix("\n").encode(errors="replace"), written.encode()):
            raise TamperedError("The library's seal was changed.", hint=OLDER_HINT)
        return epoch

    def _code(self, epoch: int) -> str:
        return hmac.new(self._key, f"{self._home_id} {epoch}".encode(), hashlib.sha256).hexdigest()


class Home:
    """An open home: its database, and the lock that a change needs."""

    def __init__(self, folder: Path, database: Database, *, is_rolled_back: bool = False) -> None:
        """Hold what `open_home` opened."""
        self.folder = folder
        self.database = database
        self.is_rolled_back = is_rolled_back
        self._lock = FileLock(folder / LOCK_NAME)
        self._held = contextlib.ExitStack()

    def lock(self) -> FileLock:
        """Hold this in a `with` block around changes; HomeInUseError while another process does."""
        return self._lock

    def hold(self) -> None:
        """Take the lock until the home is closed."""
        self._held.enter_context(self._lock)

    def close(self) -> None:
        """Close the database and give back the lock."""
        with self._held:
            self.database.close()

    def __enter__(self) -> Self:
        """Use as a context manager: closed at the end."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close."""
        self.close()


def create_home(folder: Path, secret: Secret) -> None:
    """Make an empty home, and a key file that is not there yet; HomeExistsError if there is a home, or something that could be one's.

    Its header is written last: until then there is no home. What a creation that was cut short left behind, under a key that
    nobody has, is known by the mark that it made first.
    """
    check_free(folder)
    if isinstance(secret, Keyring):
        secret.open()
    make_private_folder(folder)
    with FileLock(folder / LOCK_NAME), keys.new_key(folder, secret):
        check_free(folder)
        write_atomic(folder / UNFINISHED_NAME, b"")
        _remove_database(folder)
        data_key, home_id = secrets.token_bytes(KEY_BYTES), secrets.token_hex(16)
        with Database.create(folder / DATABASE_NAME, data_key) as database:
            Seal(folder, secret, data_key, home_id).write(database.epoch)
        keys.write_header(folder, secret, data_key, home_id)
        _finish(folder)


def open_home(folder: Path, secret: Secret, *, write: bool = False, older: Older = "refuse") -> Home:
    """Open a home; `write` takes its lock for as long as it is open.

    `older` says what to do with a library that is older than its seal: refuse it (RollbackError), read it but change nothing, or
    accept it as the newest there is. Also raises HomeMissingError, WrongKeyError, TamperedError, NewerSchemaError, HomeInUseError.
    """
    data_key = keys.unlock(folder, secret)
    _finish(folder)
    seal = Seal(folder, secret, data_key, str(keys.read_header(folder)["home_id"]))
    rollback: StoreError | None = None
    sealed_epoch = 0
    try:
        sealed_epoch = seal.read()  # before the database's own epoch: a writer commits first and seals afterwards
    except (RollbackError, TamperedError) as error:
        rollback = error
    home = Home(folder, _open_database(folder, data_key, seal))
    try:
        if write:
            home.hold()
        if rollback is None and home.database.epoch < sealed_epoch:
            rollback = RollbackError(hint=OLDER_HINT)
        if rollback is not None:
            _settle(home, seal, rollback, older)
    except BaseException:
        home.close()
        raise
    return home


def change_secret(folder: Path, old: Secret, new: Secret) -> None:
    """Lock the home with another passphrase or in another mode; the data stays as it is, and the seal moves along."""
    with open_home(folder, old, write=True) as home, keys.new_key(folder, new):
        data_key = keys.unlock(folder, old)
        if isinstance(new, Keyring) and not isinstance(old, Keyring):
            with home.database.transaction():
                home.database.set_meta(ANCHOR_DUE, 1)
        Seal(folder, new, data_key, str(keys.read_header(folder)["home_id"])).write(home.database.epoch)
        keys.rewrap(folder, old, new)
        if isinstance(new, Keyring):
            (folder / SEAL_NAME).unlink(missing_ok=True)


def erase_home(folder: Path, secret: Secret | None) -> None:
    """Make the library unreadable for good: its key first, wherever that is kept, then its files.

    A key file that does not open it stays: it is another library's, or no key file at all.
    A copy of the database that lies elsewhere stays what it is without the key: noise. HomeInUseError while somebody writes.
    """
    with FileLock(folder / LOCK_NAME):
        keys.destroy(folder, secret)
        _remove_database(folder)
        _remove_models(folder / MODELS_NAME)
        (folder / UNFINISHED_NAME).unlink(missing_ok=True)
    (folder / LOCK_NAME).unlink(missing_ok=True)
    sync_folder(folder)
    if not any(folder.iterdir()):
        shutil.rmtree(folder, ignore_errors=True)


def _open_database(folder: Path, data_key: bytes, seal: Seal) -> Database:
    try:
        return Database.open(folder / DATABASE_NAME, data_key, on_commit=seal.write)
    except WrongKeyError as error:  # the header vouched for the key, so it is the database that isn't what it was
        raise TamperedError(hint="Restore the home from a backup, or erase it and add your recordings again.") from error


def _settle(home: Home, seal: Seal, rollback: StoreError, older: Older) -> None:
    if older == "refuse":
        raise rollback
    home.is_rolled_back = True
    if older == "read":
        home.database.read_only = True
        return
    with home.lock():
        seal.write(home.database.epoch)
    home.is_rolled_back = False


def check_free(folder: Path) -> None:
    """Raise HomeExistsError if a library is in `folder`, or a file that a library would take the place of."""
    with disk_errors(folder):
        found = [name for name in (keys.HEADER_NAME, *DATA_NAMES) if (folder / name).exists()]
    if keys.HEADER_NAME in found:
        raise HomeExistsError(f"There is a library in {folder} already.", hint="Use it, or name another folder: --home FOLDER.")
    if found and not (folder / UNFINISHED_NAME).exists():
        hint = "If it is a library's, restore key.json from a backup. Else name another folder (--home), or move the file away."
        raise HomeExistsError(f"{folder / found[0]} is there already.", hint=hint)


def _finish(folder: Path) -> None:
    """Take away the mark of a home that is being made: from its first opening on, no second creation may take what it holds for nobody's."""
    with contextlib.suppress(OSError):  # mostly there is none; where it can't go, nothing else can be removed either
        (folder / UNFINISHED_NAME).unlink()


def _remove_models(folder: Path) -> None:
    """Remove what Earmark puts there; a folder that somebody chose for a home may have had models of its own."""
    for path in [path for pattern in MODELS_OURS for path in folder.glob(pattern)]:
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _remove_database(folder: Path) -> None:
    for path in (*(folder / name for name in DATA_NAMES), *scratch_files(folder / SEAL_NAME)):
        path.unlink(missing_ok=True)
