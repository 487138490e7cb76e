"""`privacy-policy.json`, read by the code: a field that it does not list never goes on the wire.

Each item names a field and its message (or a stored table and its column), what it is for, whether it leaves the device, what
protects it and how long it is kept. The codec asks `check_listed` before it writes a message.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from earmark_shared.errors import PolicyError
from earmark_shared.shapes import Message, shapes

POLICY = Path(__file__).resolve().parents[1] / "privacy-policy.json"
"""Beside the code, so that what is installed has it; the repository's root links to it."""


@dataclass(frozen=True)
class Item:
    """One line of the policy."""

    field: str
    message: str
    purpose: str
    leaves_device: bool
    mechanism: str
    retention: str


@cache
def policy() -> tuple[Item, ...]:
    """Return every item.

    Raises:
        PolicyError: the file can't be read, or says something else than items.
    """
    try:
        return tuple(Item(**row) for row in json.loads(POLICY.read_text(encoding="utf-8"))["items"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise PolicyError("the privacy policy can't be read", hint="reinstall Earmark") from error


@cache
def listed() -> frozenset[tuple[str, str]]:
    """Return every (message, field) that the policy lists."""
    return frozenset((item.message, item.field) for item in policy())


@cache
def check_listed(kind: type[Message]) -> None:
    """Refuse a message with a field that the policy does not list.

    Raises:
        PolicyError: as above; the message names the field.
    """
    missing = [name for name in shapes(kind) if (kind.__name__, name) not in listed()]
    if missing:
        raise PolicyError(f"{kind.__name__}.{missing[0]} is not in privacy-policy.json", hint="nothing unlisted is sent")
