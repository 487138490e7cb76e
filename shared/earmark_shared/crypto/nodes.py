"""Node keys: the elliptic-curve key of a device's TLS certificate and of its Flower node, on a NIST curve since both want one."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from earmark_shared.crypto.hashing import digest
from earmark_shared.errors import SignatureError

CURVES = (ec.SECP256R1, ec.SECP384R1)
PUBLIC_SIZE_MOST = 120
_ALGORITHM = ec.ECDSA(Prehashed(SHA256()))


class NodeKey:
    """A private key on P-384 (or P-256, if it was made elsewhere)."""

    def __init__(self, private: bytes | bytearray) -> None:
        """Take the private key in PKCS #8, DER.

        Raises:
            SignatureError: it is no such key.
        """
        try:
            key = load_der_private_key(bytes(private), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise SignatureError("the node key is damaged") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise SignatureError("the node key is not on an elliptic curve")
        self._key = key
        self.public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        """The public key, SubjectPublicKeyInfo in DER."""

    @classmethod
    def create(cls) -> NodeKey:
        """Make a new key on P-384; the randomness is OpenSSL's, seeded by the operating system."""
        key = ec.generate_private_key(ec.SECP384R1())
        return cls(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))

    def sign(self, label: str, *parts: bytes) -> bytes:
        """Sign the hash of the framed parts; a DER signature."""
        return self._key.sign(digest(label, *parts), _ALGORITHM)

    def private_bytes(self) -> bytearray:
        """Return the key in PKCS #8, DER, for the encrypted store only."""
        return bytearray(self._key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))

    def private_pem(self) -> bytes:
        """Return the key as gRPC wants it."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def private_openssh(self) -> bytes:
        """Return the key as `flower-supernode` reads it from a file."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def load_node(public: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key of a device's node.

    Raises:
        SignatureError: it is not an elliptic-curve key on one of `CURVES`, in its one encoding.
    """
    try:
        key = load_der_public_key(public)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError("the node key is malformed") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, CURVES):
        raise SignatureError("the node key is not on P-256 or P-384")
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != public:
        raise SignatureError("the node key is not in its one encoding")
    return key


def public_openssh(public: bytes) -> bytes:
    """Return a node's public key as `flwr supernode register` reads it."""
    return load_node(public).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def verify_node(public: bytes, signature: bytes, label: str, *parts: bytes) -> None:
    """Check a signature over the framed parts.

    Raises:
        SignatureError: the signature or the key is not right.
    """
    try:
        load_node(public).verify(signature, digest(label, *parts), _ALGORITHM)
    except InvalidSignature as error:
        raise SignatureError from error
