"""Ed25519 identities: sign a framed hash, verify it.

Verification raises, it never returns a bool:

    signature = identity.sign("earmark/sa1/consistent", t3, u16(4))
    verify(identity.public, signature, "earmark/sa1/consistent", t3, u16(4))
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from earmark_shared.crypto.hashing import digest
from earmark_shared.crypto.secrets import Entropy, draw
from earmark_shared.errors import SignatureError

PUBLIC_SIZE = 32
SIGNATURE_SIZE = 64


class Identity:
    """A signing key: a device's, the enrolment authority's or a round-plan key."""

    def __init__(self, private: bytes | bytearray) -> None:
        """Take the 32 raw bytes of the private key."""
        self._key = Ed25519PrivateKey.from_private_bytes(private)
        self.public = self._key.public_key().public_bytes_raw()
        """The public key, 32 raw bytes."""

    @classmethod
    def create(cls, entropy: Entropy) -> Identity:
        """Make a new identity."""
        return cls(draw(entropy, 32))

    def sign(self, label: str, *parts: bytes) -> bytes:
        """Sign the hash of the framed parts; 64 bytes."""
        return self.sign_digest(digest(label, *parts))

    def sign_digest(self, value: bytes) -> bytes:
        """Sign what `digest` gave; 64 bytes."""
        return self._key.sign(value)

    def private_bytes(self) -> bytearray:
        """Return the raw private key, for the encrypted store only."""
        return bytearray(self._key.private_bytes_raw())


def verify(public: bytes, signature: bytes, label: str, *parts: bytes) -> None:
    """Check a signature over the framed parts.

    Raises:
        SignatureError: the signature or the public key is not right.
    """
    verify_digest(public, signature, digest(label, *parts))


def verify_digest(public: bytes, signature: bytes, value: bytes) -> None:
    """Check a signature over what `digest` gave.

    Raises:
        SignatureError: the signature or the public key is not right.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, value)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError from error
