"""The operating system's keyring, and the backends that only look like one."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Protocol

from earmark_shared.errors import SettingsError, StoreError

SERVICE = "earmark"
ENCRYPTED_BACKENDS = ("SecretService", "libsecret", "kwallet", "macOS", "Windows")
"""Modules of keyring.backends that keep secrets encrypted under the user's login."""
OPEN_WORDS = ("plaintext", "uncrypted", "null", "fail", "keyrings.alt")
HINT = "Use a key file or a passphrase instead: --key-file FILE, or --passphrase."


class Backend(Protocol):
    """The three calls of a `keyring` backend."""

    def get_password(self, service: str, username: str) -> str | None:
        """The stored text, or None."""

    def set_password(self, service: str, username: str, password: str) -> None:
        """Store a text."""

    def delete_password(self, service: str, username: str) -> None:
        """Forget it; raises if there is none."""


@dataclass(frozen=True)
class Keyring:
    """A secret that the operating system keeps; `backend` None means this account's own keyring."""

    backend: Backend | None = None
    mode = "keyring"

    def open(self) -> OpenKeyring:
        """The keyring, ready to use; SettingsError if there is none that encrypts."""
        return OpenKeyring(approve(self.backend) if self.backend is not None else _account_keyring())


@dataclass(frozen=True)
class OpenKeyring:
    """One approved backend."""

    backend: Backend

    def secret(self, home_id: str) -> bytes | None:
        """The key stored for a home, or None; StoreError if what is there is no key."""
        text = self._get(home_id)
        try:
            return None if text is None else base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise StoreError("The keyring's entry for this library is damaged.") from error

    def store_secret(self, home_id: str, secret: bytes) -> None:
        """Keep the key of a home."""
        self._set(home_id, base64.b64encode(secret).decode())

    def seal(self, home_id: str) -> str | None:
        """How far the home's library had come when it was last changed, as `home.py` wrote it."""
        return self._get(f"{home_id}/seal")

    def store_seal(self, home_id: str, seal: str) -> None:
        """Remember how far the home's library has come."""
        self._set(f"{home_id}/seal", seal)

    def forget(self, home_id: str) -> None:
        """Delete all entries of a home, the ledger's anchor among them; missing ones are fine."""
        for username in (home_id, f"{home_id}/seal", f"{home_id}/ledger"):
            if self._get(username) is not None:
                try:
                    self.backend.delete_password(SERVICE, username)
                except Exception as error:
                    raise _unusable(error) from error

    def _get(self, username: str) -> str | None:
        try:
            return self.backend.get_password(SERVICE, username)
        except Exception as error:
            raise _unusable(error) from error

    def _set(self, username: str, text: str) -> None:
        try:
            self.backend.set_password(SERVICE, username, text)
        except Exception as error:
            raise _unusable(error) from error


def approve(backend: Backend) -> Backend:
    """Give `backend` back, unless its name says that it keeps secrets in the open or not at all: SettingsError."""
    name = f"{type(backend).__module__}.{type(backend).__qualname__}"
    if any(word in name.lower() for word in OPEN_WORDS):
        raise SettingsError(f"The keyring backend {name} does not encrypt what it keeps.", hint=HINT)
    return backend


def _account_keyring() -> Backend:
    import keyring

    found: Any = keyring.get_keyring()
    for backend in getattr(found, "backends", None) or [found]:
        package, _, module = type(backend).__module__.rpartition(".")
        if package == "keyring.backends" and module in ENCRYPTED_BACKENDS:
            chosen: Backend = backend
            return chosen
    raise SettingsError("This account has no keyring that encrypts what it keeps.", hint=HINT)


def _unusable(error: Exception) -> StoreError:
    return StoreError(f"The keyring can't be used: {type(error).__name__}.", hint=HINT)
