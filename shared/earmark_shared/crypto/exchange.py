"""X25519 key pairs of one attempt of one round, in memory only."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from earmark_shared.crypto.secrets import Entropy, draw, erase
from earmark_shared.errors import KeyExchangeError


def is_worthless(public: bytes) -> bool:
    """Whether a public key is a point of low order: with it, every private key gives the all-zero secret."""
    try:
        ExchangeKey(bytearray(range(32))).shared_secrets([public])
    except KeyExchangeError:
        return True
    return False


class ExchangeKey:
    """A key pair whose private half is a bytearray that `erase` overwrites."""

    def __init__(self, private: bytearray) -> None:
        """Keep `private`, 32 raw bytes."""
        self.private = private
        self.public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
        """The public key, 32 raw bytes."""

    @classmethod
    def create(cls, entropy: Entropy) -> ExchangeKey:
        """Make a new key pair."""
        return cls(draw(entropy, 32))

    def shared_secrets(self, publics: list[bytes]) -> list[bytearray]:
        """Return the secret shared with each public key, 32 bytes each.

        Raises:
            KeyExchangeError: a public key leads to the all-zero secret; `culprit` is its place in the list.
        """
        key = X25519PrivateKey.from_private_bytes(self.private)
        secrets = []
        for place, public in enumerate(publics):
            try:
                secrets.append(bytearray(key.exchange(X25519PublicKey.from_public_bytes(public))))
            except ValueError as error:
                raise KeyExchangeError(culprit=place) from error
        return secrets

    def erase(self) -> None:
        """Overwrite the private half."""
        erase(self.private)
