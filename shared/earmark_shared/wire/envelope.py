"""The messages of a round as the bytes of one Flower record, and back.

    pack((chunk_one, chunk_two))          # u8 kind || u32 length || message, one after the other
    unpack(received, (MaskedChunk, Abort))

What is unpacked is one of the kinds that the receiver waits for, each in its one encoding; everything else is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from earmark_shared.crypto.hashing import u32
from earmark_shared.errors import MalformedError
from earmark_shared.round import (
    Abort,
    Advertise,
    Inbox,
    MaskedChunk,
    Roster,
    RoundPlan,
    ShareKeys,
    Survivors,
    SurvivorSig,
    Unmask,
    UnmaskReq,
)
from earmark_shared.shapes import Message
from earmark_shared.wire.codec import MESSAGE_SIZE_MOST, decode, encode

KINDS: tuple[type[Message], ...] = (
    RoundPlan,
    Advertise,
    Roster,
    ShareKeys,
    Inbox,
    MaskedChunk,
    Survivors,
    SurvivorSig,
    UnmaskReq,
    Unmask,
    Abort,
)
"""A kind's number is its place here; new ones go to the end."""
ASKED: tuple[type[Message], ...] = (RoundPlan, Roster, Inbox, Survivors, UnmaskReq)
"""What a server sends, phase by phase from ADVERTISE on."""
ANSWERS: dict[type[Message], type[Message]] = dict(
    zip(ASKED, (Advertise, ShareKeys, MaskedChunk, SurvivorSig, Unmask), strict=True)
)
"""What a device answers with, or with an Abort."""
ACTIONS: dict[type[Message], str] = dict(
    zip(ASKED, ("sa1_advertise", "sa1_share", "sa1_mask", "sa1_confirm", "sa1_unmask"), strict=True)
)
"""Under which name Flower carries each."""
MESSAGES_MOST = 16
"""A masked vector of four million words is sixteen chunks."""
HEADER_SIZE = 5


def pack(messages: Sequence[Message]) -> bytes:
    """Return the bytes that carry `messages`."""
    return b"".join(_header(message, body) + body for message in messages for body in (encode(message),))


def unpack(received: bytes, kinds: Sequence[type[Message]]) -> tuple[Message, ...]:
    """Return the messages that `pack` was given.

    Raises:
        MalformedError: none, too many, one that is not of `kinds`, or bytes that are no message.
    """
    messages = tuple(_parts(received, kinds))
    if not 1 <= len(messages) <= MESSAGES_MOST:
        raise MalformedError(f"{len(messages)} messages came at once")
    return messages


def _header(message: Message, body: bytes) -> bytes:
    return bytes([KINDS.index(type(message))]) + u32(len(body))


def _parts(received: bytes, kinds: Sequence[type[Message]]) -> Iterator[Message]:
    if len(received) > MESSAGES_MOST * (MESSAGE_SIZE_MOST + HEADER_SIZE):
        raise MalformedError(f"{len(received)} bytes are more than a round ever sends at once")
    at = 0
    while at < len(received):
        number, size = received[at], int.from_bytes(received[at + 1 : at + HEADER_SIZE], "big")
        body = received[at + HEADER_SIZE : at + HEADER_SIZE + size]
        at += HEADER_SIZE + size
        if number >= len(KINDS) or KINDS[number] not in kinds or at > len(received):
            raise MalformedError("a message came that nobody waits for, or one that is cut off")
        yield decode(KINDS[number], body)
