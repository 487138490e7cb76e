"""Fetching released files as records: the messages of `protos/earmark_shared/wire/v1/release.proto`, in that order.

One call brings one piece, so a slow reader holds none of the server's threads, and every piece but the last is full, so a slow
sender can't drip: a file of n bytes takes n / PIECE_SIZE calls, each with a time limit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from earmark_shared.shapes import Flag, Message, Octets, Whole

PIECE_SIZE = 256 << 10
PIECE_S = 16.0
"""Seconds that a piece may take: 16 KiB a second."""
PATH = re.compile(r"(?:metadata|targets)/[A-Za-z0-9][A-Za-z0-9._-]{0,180}")
"""The files that can be asked for; no path leads anywhere else."""


@dataclass(frozen=True)
class Wanted(Message):
    """A device asks for a piece of a file."""

    path: Annotated[bytes, Octets(range(1, 201))]
    start: Annotated[int, Whole(2**48)]


@dataclass(frozen=True)
class Piece(Message):
    """The piece; nothing of a file that isn't there."""

    is_there: Annotated[bool, Flag()]
    size: Annotated[int, Whole(2**48)]
    data: Annotated[bytes, Octets(range(PIECE_SIZE + 1))]
