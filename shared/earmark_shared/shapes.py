"""Records whose fields are checked when they are made: what exists is well formed, wherever it came from.

A field's shape stands beside its type, and is what the checks and the codec go by:

    @dataclass(frozen=True)
    class Survivors(Message):
        t1: Annotated[bytes, sized(32)]           # MalformedError unless it is 32 bytes
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, get_args, get_type_hints

from earmark_shared.errors import MalformedError


class Shape(Protocol):
    """What a field may hold."""

    def check(self, name: str, value: object) -> None:
        """Raise MalformedError unless `value` may stand in the field `name`."""


@dataclass(frozen=True)
class Octets:
    """Bytes of one of these sizes."""

    sizes: range

    def check(self, name: str, value: object) -> None:
        """See `Shape`."""
        if type(value) is not bytes or len(value) not in self.sizes:
            raise MalformedError(f"{name}: expected {self.sizes[0]} to {self.sizes[-1]} bytes")


@dataclass(frozen=True)
class Whole:
    """An integer from 0 to `most`."""

    most: int

    def check(self, name: str, value: object) -> None:
        """See `Shape`."""
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= self.most:
            raise MalformedError(f"{name}: expected a whole number up to {self.most}")


class Real:
    """A finite float."""

    def check(self, name: str, value: object) -> None:
        """See `Shape`."""
        if type(value) is not float or not math.isfinite(value):
            raise MalformedError(f"{name}: expected a finite number")


class Flag:
    """True or false."""

    def check(self, name: str, value: object) -> None:
        """See `Shape`."""
        if type(value) is not bool:
            raise MalformedError(f"{name}: expected true or false")


@dataclass(frozen=True)
class Many:
    """A tuple of `least` to `most` items; `shape` None means messages, which checked themselves."""

    least: int
    most: int
    shape: Whole | None = None

    def check(self, name: str, value: object) -> None:
        """See `Shape`."""
        if type(value) is not tuple or not self.least <= len(value) <= self.most:
            raise MalformedError(f"{name}: expected {self.least} to {self.most} items")
        for item in value:
            if self.shape is not None:
                self.shape.check(name, item)
            elif not isinstance(item, Message):
                raise MalformedError(f"{name}: expected messages")


def sized(size: int) -> Octets:
    """Return the shape of exactly `size` bytes."""
    return Octets(range(size, size + 1))


def shapes(kind: type[Message]) -> dict[str, Shape]:
    """Return every field of a message and its shape, in the message's order."""
    if kind not in _SHAPES:
        hints = get_type_hints(kind, include_extras=True)
        _SHAPES[kind] = {name: get_args(hint)[1] for name, hint in hints.items()}
    return _SHAPES[kind]


_SHAPES: dict[type[Message], dict[str, Shape]] = {}


class Message:
    """A record whose fields are checked when it is made."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            MalformedError: a field is not of its shape.
        """
        for name, shape in shapes(type(self)).items():
            shape.check(f"{type(self).__name__}.{name}", getattr(self, name))
