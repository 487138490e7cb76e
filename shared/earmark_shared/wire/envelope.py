"""The messages of a round as the bytes of one Flower record, and back.

    pack((chunk_one, chunk_two))          # u8 kind || u32 length || u32 padding || message || zeros, one after the other
    unpack(received, (MaskedChunk, Abort))

What is unpacked is one of the kinds that the receiver waits for, each in its one encoding; everything else is refused. Protobuf writes
small numbers shorter; padding makes up for that, so that all devices of a shard send the same number of bytes.
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
from earmark_shared.shapes import Message, Whole, shapes
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
HEADER_SIZE = 9
INDEX = Whole(0xFFFF)
INDEX_SIZE = 4
"""Bytes that an index takes at most: its tag, and up to three of a varint; an index of 0 takes none."""


def pack(messages: Sequence[Message]) -> bytes:
    """Return the bytes that carry `messages`."""
    return b"".join(map(_frame, messages))


def unpack(received: bytes, kinds: Sequence[type[Message]]) -> tuple[Message, ...]:
    """Return the messages that `pack` was given.

    Raises:
        MalformedError: none, too many, one that is not of `kinds`, or bytes that are no message.
    """
    messages = tuple(_parts(received, kinds))
    if not 1 <= len(messages) <= MESSAGES_MOST:
        raise MalformedError(f"{len(messages)} messages came at once")
    return messages


def _frame(message: Message) -> bytes:
    body, padding = encode(message), _padding(message)
    return bytes([KINDS.index(type(message))]) + u32(len(body)) + u32(padding) + body + bytes(padding)


def _padding(message: Message) -> int:
    """Return how many bytes shorter the message is than with the largest indices there are."""
    total = 0
    for name, shape in shapes(type(message)).items():
        value = getattr(message, name)
        if shape == INDEX:
            total += INDEX_SIZE - (1 + -(-value.bit_length() // 7) if value else 0)
        elif isinstance(value, tuple):
            total += sum(_padding(item) for item in value if isinstance(item, Message))
    return total


def _parts(received: bytes, kinds: Sequence[type[Message]]) -> Iterator[Message]:
    if len(received) > MESSAGES_MOST * (MESSAGE_SIZE_MOST + HEADER_SIZE):
        raise MalformedError(f"{len(received)} bytes are more than a round ever sends at once")
    at = 0
    while at < len(received):
        number, start = received[at], at + HEADER_SIZE
        end = start + int.from_bytes(received[at + 1 : at + 5], "big")
        at = end + int.from_bytes(received[at + 5 : start], "big")
        if number >= len(KINDS) or KINDS[number] not in kinds or at > len(received):
            raise MalformedError("a message came that nobody waits for, or one that is cut off")
        message = decode(KINDS[number], received[start:end])
        if received[end:at] != bytes(_padding(message)):
            raise MalformedError("a message is not padded as it must be")
        yield message
