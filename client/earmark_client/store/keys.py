"""How a home's data key is kept: a random 32-byte key that encrypts the database, wrapped by one of three secrets.

`key.json` holds the mode, the key-derivation parameters and the data key sealed with AES-256-GCM, the rest of the file being
the associated data. Changing the passphrase or the mode seals the same data key again, in one atomic file replacement.
The key file and passphrase modes have no memory outside the home's disk: a copy of the *whole* home from last week, with its
`key.json`, opens without a complaint. Only the keyring remembers how far the library had come (see `home.py`).
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from earmark_client.store.keyrings import Keyring, OpenKeyring
from earmark_shared.errors import DiskFullError, HomeMissingError, SettingsError, StoreError, TamperedError, WrongKeyError
from earmark_shared.files import disk_errors, read_private, scratch_files, wipe, write_atomic, write_private

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "KeyFile",
    "Keyring",
    "Passphrase",
    "Secret",
    "create_key_file",
    "destroy",
    "new_key",
    "own_key_file",
    "read_mode",
    "rewrap",
    "unlock",
]

HEADER_NAME = "key.json"
DATABASE_NAME = "library.db"
UNFINISHED_NAME = "earmark-unfinished"
"""Lies in a home while it is made: what is there without a `key.json` is then nobody's."""
KEY_BYTES = 32
ARGON2 = {"memory_kib": 65_536, "passes": 3, "lanes": 4}
ARGON2_LIMITS = {"memory_kib": 1 << 20, "passes": 16, "lanes": 16}
"""A header may not ask for more: it would be a way to hang the device that opens it."""
WRONG_PASSPHRASE_S = 0.15
"""A refused passphrase takes at least this long, also on a machine that is faster than Argon2id's parameters foresaw."""
REFUSED = "The key or passphrase does not open this library."


@dataclass(frozen=True)
class KeyFile:
    """A secret that lies in a 0600 file: 32 random bytes as hexadecimal digits."""

    path: Path
    mode = "key-file"


@dataclass(frozen=True, repr=False)
class Passphrase:
    """A secret that a person remembers; Argon2id turns it into a key."""

    text: str | bytes
    mode = "passphrase"


Secret = KeyFile | Passphrase | Keyring


def create_key_file(path: Path) -> None:
    """Write a new random key file, 0600; one that exists is never replaced."""
    try:
        write_private(path, secrets.token_hex(KEY_BYTES).encode() + b"\n")
    except DiskFullError:  # so it was not there; what there is of it is no key
        path.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def new_key(home: Path, secret: Secret) -> Iterator[None]:
    """Write the key file that `secret` names, if it is not there yet; it goes again if what follows fails before it locks `home`."""
    made = secret if isinstance(secret, KeyFile) and not secret.path.exists() else None
    if made is not None:
        create_key_file(made.path)
    try:
        yield
    except BaseException:
        if made is not None and _is_useless(home, made):
            wipe(made.path)
        raise


def _is_useless(home: Path, secret: KeyFile) -> bool:
    """Whether a key certainly doesn't open `home`; where that can't be read, it may."""
    try:
        unlock(home, secret)
    except (HomeMissingError, SettingsError, WrongKeyError):
        return True
    except StoreError:
        return False
    return False


def unlock(home: Path, secret: Secret) -> bytes:
    """The data key of `home`; WrongKeyError if `secret` is not the one, TamperedError if the header is not as written."""
    header = read_header(home)
    started_s = time.monotonic()
    if header["mode"] != secret.mode:
        raise SettingsError(
            f"This library is locked with a {header['mode']}, not with a {secret.mode}.", hint="Say which key opens it."
        )
    try:
        wrapping_key = _wrapping_key(secret, header)
        return AESGCM(wrapping_key).decrypt(bytes.fromhex(header["nonce"]), bytes.fromhex(header["wrapped"]), _aad(header))
    except InvalidTag as error:
        if isinstance(secret, Passphrase):
            time.sleep(max(0.0, WRONG_PASSPHRASE_S - (time.monotonic() - started_s)))
        raise WrongKeyError(REFUSED) from error


def rewrap(home: Path, old: Secret, new: Secret) -> None:
    """Lock `home` with `new` instead of `old`: the data key stays, so nothing else is rewritten; killed midway, `old` still opens it."""
    data_key = unlock(home, old)
    home_id = read_header(home)["home_id"]
    write_header(home, new, data_key, home_id=home_id)
    if isinstance(old, Keyring) and not isinstance(new, Keyring):
        old.open().forget(home_id)


def destroy(home: Path, secret: Secret | None) -> None:
    """Make the data key unrecoverable: wipe the header, its scratch files, its own key file and the keyring's entries."""
    key_file = own_key_file(home, secret)
    if isinstance(secret, Keyring):
        with contextlib.suppress(StoreError):  # a damaged header no longer says which entries are its own, and opens nothing
            secret.open().forget(str(read_header(home)["home_id"]))
    if key_file is not None:  # before the header, without which a second run would no longer know whose it is
        wipe(key_file)
    for path in (*scratch_files(home / HEADER_NAME), home / HEADER_NAME):
        wipe(path)


def own_key_file(home: Path, secret: Secret | None) -> Path | None:
    """The key file that goes when `home` is destroyed: only one that opens it, since another may be all that opens another library."""
    if not isinstance(secret, KeyFile):
        return None
    try:
        unlock(home, secret)
    except (SettingsError, StoreError):
        return None
    return secret.path


def read_mode(home: Path) -> str:
    """Which kind of secret opens `home`: keyring, key-file or passphrase."""
    return str(read_header(home)["mode"])


def derive(data_key: bytes, purpose: str) -> bytes:
    """A 32-byte key for one purpose, from the data key."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=b"earmark/" + purpose.encode()).derive(data_key)


def write_header(home: Path, secret: Secret, data_key: bytes, home_id: str) -> None:
    """Seal `data_key` with `secret` and replace `home/key.json`."""
    header: dict[str, Any] = {"format": "earmark-key", "version": 1, "home_id": home_id, "mode": secret.mode, "kdf": {}}
    if isinstance(secret, Passphrase):
        header["kdf"] = {**ARGON2, "salt": secrets.token_hex(16)}
    if isinstance(secret, Keyring):
        keyring = secret.open()
        if keyring.secret(home_id) is None:
            keyring.store_secret(home_id, secrets.token_bytes(KEY_BYTES))
    header["nonce"] = secrets.token_hex(12)
    header["wrapped"] = (
        AESGCM(_wrapping_key(secret, header)).encrypt(bytes.fromhex(header["nonce"]), data_key, _aad(header)).hex()
    )
    write_atomic(home / HEADER_NAME, _canonical(header))


def read_header(home: Path) -> dict[str, Any]:
    """`key.json` as a dict; one byte off its canonical form is TamperedError, none at all HomeMissingError."""
    path = home / HEADER_NAME
    with disk_errors(home):
        if not path.exists():
            raise _missing(home)
    data = read_private(path, limit=4096)
    try:
        header = json.loads(data)
        if _canonical(header) != data or set(header) != {"format", "version", "home_id", "mode", "kdf", "nonce", "wrapped"}:
            raise ValueError  # noqa: TRY301  (one way out for everything that is not our own header)
        _check_fields(header)
    except (ValueError, TypeError, KeyError) as error:
        raise TamperedError(f"{path} is not as Earmark wrote it.", hint="Restore key.json from a backup.") from error
    return dict(header)


def _missing(home: Path) -> HomeMissingError:
    """A database that lost its header may be all that somebody has: who is told to begin anew would destroy it."""
    if (home / DATABASE_NAME).exists() and not (home / UNFINISHED_NAME).exists():
        hint = "Restore key.json from a backup: without it nothing opens the library."
        return HomeMissingError(f"There is no library in {home}: it has a {DATABASE_NAME}, but no {HEADER_NAME}.", hint=hint)
    return HomeMissingError(f"There is no library in {home}.", hint="Begin one: earmark init.")


def _check_fields(header: dict[str, Any]) -> None:
    exact = {"home_id": 16, "nonce": 12, "wrapped": KEY_BYTES + 16}
    if header["format"] != "earmark-key" or header["version"] != 1:
        raise ValueError
    for name, size in exact.items():
        value = bytes.fromhex(header[name])
        if len(value) != size or value.hex() != header[name]:  # one spelling only: a changed letter case is a change too
            raise ValueError
    kdf = header["kdf"]
    if header["mode"] == Passphrase.mode:
        bytes.fromhex(kdf["salt"])
        if any(not ARGON2[name] <= kdf[name] <= most for name, most in ARGON2_LIMITS.items()):
            raise ValueError
    elif header["mode"] not in (KeyFile.mode, Keyring.mode) or kdf:
        raise ValueError


def _canonical(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, indent=1).encode() + b"\n"


def _aad(header: dict[str, Any]) -> bytes:
    return _canonical({name: value for name, value in header.items() if name != "wrapped"})


def _wrapping_key(secret: Secret, header: dict[str, Any]) -> bytes:
    if isinstance(secret, Passphrase):
        return _stretch(secret.text, header["kdf"])
    stored = (
        _read_key_file(secret.path) if isinstance(secret, KeyFile) else _keyring_secret(secret.open(), str(header["home_id"]))
    )
    return HKDF(SHA256(), KEY_BYTES, salt=bytes.fromhex(header["home_id"]), info=b"earmark/wrap/" + secret.mode.encode()).derive(
        stored
    )


def _stretch(passphrase: str | bytes, kdf: dict[str, Any]) -> bytes:
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    stretch = Argon2id(
        salt=bytes.fromhex(kdf["salt"]),
        length=KEY_BYTES,
        iterations=kdf["passes"],
        lanes=kdf["lanes"],
        memory_cost=kdf["memory_kib"],
    )
    return stretch.derive(passphrase.encode() if isinstance(passphrase, str) else passphrase)


def _read_key_file(path: Path) -> bytes:
    try:
        text = read_private(path, limit=4096)
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise WrongKeyError(f"There is no key file {path}.", hint="Name the file that this library was made with.") from error
        raise
    digits = text.removesuffix(b"\n")
    if len(digits) != 2 * KEY_BYTES or not set(digits) <= set(b"0123456789abcdef"):
        raise WrongKeyError(REFUSED, hint=f"{path} is not a key file, or it was changed.")
    return bytes.fromhex(digits.decode())


def _keyring_secret(keyring: OpenKeyring, home_id: str) -> bytes:
    stored = keyring.secret(home_id)
    if stored is None:
        raise WrongKeyError(REFUSED, hint="This account's keyring holds no key for it.")
    return stored
