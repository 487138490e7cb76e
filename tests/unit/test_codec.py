"""Messages have one encoding; everything else is refused."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.fleet import Fleet

from earmark_shared.errors import MalformedError
from earmark_shared.round import (
    Abort,
    Advertise,
    Box,
    Inbox,
    MaskedChunk,
    Roster,
    RoundPlan,
    ShareKeys,
    Survivors,
    SurvivorSig,
    Unmask,
    UnmaskReq,
    UnmaskShare,
)
from earmark_shared.shapes import shapes
from earmark_shared.wire.codec import MESSAGE_SIZE_MOST, decode, encode
from earmark_shared.wire.v1 import round_pb2

H = b"h" * 32
ADVERTISE = Advertise(H, b"i" * 16, b"c" * 129, b"m" * 32, b"s" * 32, b"g" * 64)
SIG = SurvivorSig(H, 300, b"g" * 64)
MESSAGES = [
    Fleet(1).plan,
    ADVERTISE,
    Roster(H, 3, (ADVERTISE, ADVERTISE)),
    Box(0, b"b" * 82),
    ShareKeys(H, 0, H, (Box(1, b"b" * 82), Box(2, b"x" * 82))),
    Inbox(H, (Box(1, b"b" * 82),), (0,)),
    MaskedChunk(H, 7, 0, 1, b"data", H, b"g" * 64),
    MaskedChunk(H, 7, 0, 2, b"data", H, b""),
    Survivors(H, ()),
    Survivors(H, (0, 1, 65_535)),
    SIG,
    UnmaskReq(H, (0, 300), (SIG, SIG)),
    UnmaskShare(1, True, b"y" * 33),
    Unmask(H, 2, (UnmaskShare(0, False, b"y" * 33), UnmaskShare(1, True, b"y" * 33))),
    Abort(b"r" * 16, 3, 9, 65_535),
]
NAMES = [type(message).__name__ for message in MESSAGES]


@pytest.mark.parametrize("message", MESSAGES, ids=NAMES)
def test_messages_come_back(message):
    assert decode(type(message), encode(message)) == message


def test_the_proto_file_and_the_records_have_the_same_fields():
    kinds = {type(message) for message in MESSAGES}
    assert {kind.__name__ for kind in kinds} == set(round_pb2.DESCRIPTOR.message_types_by_name)
    for kind in kinds:
        assert [field.name for field in getattr(round_pb2, kind.__name__).DESCRIPTOR.fields] == list(shapes(kind))


def test_the_generated_code_is_of_this_proto_file():
    text = (Path(__file__).resolve().parents[2] / "protos/earmark_shared/wire/v1/round.proto").read_text(encoding="utf-8")
    for name, message in round_pb2.DESCRIPTOR.message_types_by_name.items():
        body = text.split(f"message {name} {{")[1].split("\n}")[0]
        assert all(f" {field.name} = {field.number};" in body for field in message.fields)


@pytest.mark.parametrize("message", MESSAGES, ids=NAMES)
def test_unknown_repeated_and_trailing_fields_are_refused(message):
    encoded = encode(message)
    first_field = encoded[: 2 + encoded[1]] if encoded[0] & 7 == 2 else encoded[:2]
    for wrong in (encoded + b"\xa2\x06\x01x", encoded + b"\x00", encoded + first_field, encoded[:-1], b"\xa0\x06\x01" + encoded):
        with pytest.raises(MalformedError):
            decode(type(message), wrong)


def test_padded_numbers_and_other_orders_are_refused():
    encoded = encode(Box(1, b"b" * 82))
    assert encoded[:2] == b"\x08\x01"
    for wrong in (b"\x08\x81\x00" + encoded[2:], encoded[2:] + encoded[:2], b"\x08\x01" + encoded):
        with pytest.raises(MalformedError):
            decode(Box, wrong)


def test_a_nested_unknown_field_is_refused():
    inner = encode(Box(1, b"b" * 82)) + b"\x1a\x01x"
    body = b"\x0a\x20" + H + b"\x12" + bytes([len(inner)]) + inner + b"\x1a\x01\x00"
    with pytest.raises(MalformedError):
        decode(Inbox, body)
    inner = inner[:-3]
    assert decode(Inbox, b"\x0a\x20" + H + b"\x12" + bytes([len(inner)]) + inner + b"\x1a\x01\x00") == MESSAGES[5]


def test_sizes_and_ranges_are_refused():
    raw = round_pb2.Survivors(t1=b"short", u3=[1]).SerializeToString()
    with pytest.raises(MalformedError):
        decode(Survivors, raw)
    with pytest.raises(MalformedError):
        decode(Survivors, round_pb2.Survivors(t1=H, u3=[70_000]).SerializeToString())
    with pytest.raises(MalformedError):
        decode(Survivors, b"")
    raw = round_pb2.Abort(round_id=b"r" * 16, phase=1, culprit=1)
    raw.code = 77  # proto3 enums are open
    with pytest.raises(MalformedError):
        decode(Abort, raw.SerializeToString())


def test_a_message_that_is_too_long_is_not_even_parsed():
    with pytest.raises(MalformedError, match="longer"):
        decode(MaskedChunk, bytes(MESSAGE_SIZE_MOST + 1))
    longest = MaskedChunk(H, 0, 0, 1, bytes(1 << 20), H, b"g" * 64)
    assert len(encode(longest)) < MESSAGE_SIZE_MOST
    assert decode(MaskedChunk, encode(longest)) == longest


@given(st.sampled_from(MESSAGES), st.binary(max_size=200))
@settings(max_examples=120, deadline=None, derandomize=True, database=None)
def test_garbage_is_refused_or_a_message(kind, garbage):
    try:
        message = decode(type(kind), garbage)
    except MalformedError:
        return
    assert encode(message) == garbage


@given(st.sampled_from(MESSAGES), st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=120, deadline=None, derandomize=True, database=None)
def test_a_changed_byte_never_passes_for_the_same(message, place, change):
    encoded = bytearray(encode(message))
    encoded[place % len(encoded)] ^= change
    try:
        other = decode(type(message), bytes(encoded))
    except MalformedError:
        return
    assert other != message
    assert encode(other) == bytes(encoded)


def test_every_other_type_refuses_a_plan():
    encoded = encode(Fleet(1).plan)
    for kind in {type(message) for message in MESSAGES} - {RoundPlan}:
        with pytest.raises(MalformedError):
            decode(kind, encoded)
