"""Message records <-> bytes, and nothing but their one encoding.

A record and its protobuf message have the same name and the same fields, so one table-free walk does all of them. What is
decoded must encode to the very same bytes again: unknown fields, fields sent twice, padded numbers and trailing bytes are
all refused by that one rule, and the record's own shapes (round.py, enrolment.py) refuse every wrong size and range.

    decode(Survivors, encode(survivors)) == survivors
"""

from __future__ import annotations

from typing import TypeVar, cast, get_args, get_origin, get_type_hints

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage

from earmark_shared.errors import MalformedError
from earmark_shared.shapes import Message, shapes
from earmark_shared.wire.policy import check_listed
from earmark_shared.wire.v1 import enrol_pb2, release_pb2, round_pb2

MESSAGE_SIZE_MOST = 2 << 20
"""Largest message either side looks at, bytes."""
MODULES = (enrol_pb2, release_pb2, round_pb2)
M = TypeVar("M", bound=Message)
_HINTS: dict[type[Message], dict[str, object]] = {}


def encode(message: Message) -> bytes:
    """Return the message's bytes.

    Raises:
        PolicyError: the privacy policy does not list one of its fields.
    """
    return _to_proto(message).SerializeToString(deterministic=True)


def decode(kind: type[M], encoded: bytes) -> M:
    """Return the `kind` of message that `encoded` is.

    Raises:
        MalformedError: it is too long, not this message, not in its one encoding, or a field is out of shape.
    """
    if len(encoded) > MESSAGE_SIZE_MOST:
        raise MalformedError(f"a {kind.__name__} of {len(encoded)} bytes is longer than {MESSAGE_SIZE_MOST}")
    proto = _proto_class(kind)()
    try:
        proto.ParseFromString(encoded)
    except DecodeError as error:
        raise MalformedError(f"the bytes are not a {kind.__name__}") from error
    proto.DiscardUnknownFields()
    if proto.SerializeToString(deterministic=True) != encoded:
        raise MalformedError(f"the {kind.__name__} holds something that is not known")
    return _from_proto(kind, proto)


def _proto_class(kind: type[Message]) -> type[ProtoMessage]:
    name = kind.__name__
    home = next(module for module in MODULES if name in module.DESCRIPTOR.message_types_by_name)
    return cast("type[ProtoMessage]", getattr(home, name))


def _to_proto(message: Message) -> ProtoMessage:
    check_listed(type(message))  # type: ignore[arg-type]  # a dataclass is hashable, mypy means its instances
    fields = {name: _plain(getattr(message, name)) for name in shapes(type(message))}
    return _proto_class(type(message))(**fields)


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_to_proto(item) if isinstance(item, Message) else item for item in value]
    return value


def _from_proto(kind: type[M], proto: ProtoMessage) -> M:
    if kind not in _HINTS:
        _HINTS[kind] = get_type_hints(kind)
    hints = _HINTS[kind]
    return kind(**{name: _record(hints[name], getattr(proto, name)) for name in shapes(kind)})


def _record(hint: object, value: object) -> object:
    if get_origin(hint) is not tuple:
        return value
    item = get_args(hint)[0]
    items = cast("list[ProtoMessage]", value)
    return tuple(_from_proto(item, each) if issubclass(item, Message) else each for each in items)
