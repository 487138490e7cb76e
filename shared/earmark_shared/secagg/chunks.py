"""A masked vector as signed 1 MiB chunks, and chunks as a vector again.

Each chunk carries the SHA-256 of everything up to and including itself; the last is signed over the whole hash, T1 and the
sender's index. A chunk of another round, another device or another place in the row does not fit.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from earmark_shared.crypto.certificates import peek
from earmark_shared.crypto.hashing import u16
from earmark_shared.crypto.identities import Identity, verify
from earmark_shared.errors import MalformedError, PhaseError, SignatureError
from earmark_shared.round import CHUNK_SIZE, Advertise, MaskedChunk
from earmark_shared.secagg import transcript
from earmark_shared.secagg.checks import check_same_transcript

if TYPE_CHECKING:
    from earmark_shared.crypto.keystream import Words


def chunk(words: Words, identity: Identity, *, t1: bytes, src: int) -> tuple[MaskedChunk, ...]:
    """Return the chunks of a masked vector `(d + 1,) uint32`."""
    whole = memoryview(words.data).cast("B")
    pieces = [bytes(whole[start : start + CHUNK_SIZE]) for start in range(0, len(whole), CHUNK_SIZE)]
    running = hashlib.sha256()
    chunks = []
    for seq, piece in enumerate(pieces):
        running.update(piece)
        so_far = running.digest()
        is_last = seq + 1 == len(pieces)
        sig = identity.sign(transcript.MASKED_SIG, t1, u16(src), so_far) if is_last else b""
        chunks.append(MaskedChunk(t1=t1, src=src, seq=seq, of=len(pieces), data=piece, sha256=so_far, sig=sig))
    return tuple(chunks)


class Upload:
    """One device's chunks as they come in, in order; undoes `chunk`."""

    def __init__(self, sender: Advertise, *, t1: bytes, src: int, dimension: int) -> None:
        """Wait for a vector of `dimension + 1` words from `sender`."""
        self._sender, self._t1, self._src = sender, t1, src
        self._size = 4 * (dimension + 1)
        self._of = -(-self._size // CHUNK_SIZE)
        self._next = 0
        self._running = hashlib.sha256()
        self._data = bytearray()

    def add(self, part: MaskedChunk) -> Words | None:
        """Take the next chunk; return the vector when it was the last. A refused chunk changes nothing.

        Raises:
            ConsistencyError: the chunk is of another transcript.
            MalformedError: it has a wrong place, size, hash or signature.
            PhaseError: it came before.
        """
        check_same_transcript(part.t1, self._t1)
        if part.seq < self._next:
            raise PhaseError("a chunk came twice", culprit=self._src)
        self._check_place(part)
        running = self._running.copy()
        running.update(part.data)
        if running.digest() != part.sha256:
            raise MalformedError("a chunk does not match its hash", culprit=self._src)
        self._check_signature(part)
        self._running, self._next = running, part.seq + 1
        self._data += part.data
        return np.frombuffer(self._data, dtype="<u4") if self._next == self._of else None

    def _check_place(self, part: MaskedChunk) -> None:
        expected = min(CHUNK_SIZE, self._size - part.seq * CHUNK_SIZE)
        if (part.src, part.seq, part.of) != (self._src, self._next, self._of) or len(part.data) != expected:
            raise MalformedError("a chunk is not the next of its vector", culprit=self._src)

    def _check_signature(self, part: MaskedChunk) -> None:
        if part.seq + 1 < self._of:
            if part.sig:
                raise MalformedError("a chunk that is not the last is signed", culprit=self._src)
            return
        identity = peek(self._sender.cert).identity
        try:
            verify(identity, part.sig, transcript.MASKED_SIG, self._t1, u16(self._src), part.sha256)
        except SignatureError as error:
            raise MalformedError("a masked vector is not signed by its device", culprit=self._src) from error
