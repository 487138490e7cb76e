"""What options may be: moments as people and `list --json` write them, numbers that are numbers, texts that are text."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import click

FIRST_S, LAST_S = -62_135_596_800.0, 253_402_300_799.0
"""The first second of year 1 and the last of year 9999, Unix time."""

MOST_HITS = 1_000_000
MOST_JOBS = 1_024
"""The most hits that a search can be asked for, and files worked on at the same time."""


class Moment(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 only
    """A day or a moment of ISO 8601, as Unix time (s); local time where it names no zone."""

    name = "date"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the moment; what the calendar's ends have no zone for is the nearest that they have."""
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no date: write 2026-03-01, 2026-03-01T12:30 or 2026-03-01T12:30:00+00:00", param, ctx)
        try:
            return moment.timestamp()
        except (ValueError, OverflowError):
            return FIRST_S if moment.year < 1970 else LAST_S


class Number(click.FloatRange):
    """A number within bounds; `nan` and `inf`, which Python takes for numbers, are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401  click's own
        """Return the number."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number.", param, ctx)
        return number


def check_text(ctx: click.Context, param: click.Parameter, value: object) -> object:
    """Refuse words that are not UTF-8: nothing in a library is called so. Paths are left to whoever opens them."""
    for text in value if isinstance(value, tuple | list) else (value,):
        if isinstance(text, str) and not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            raise click.BadParameter(f"{shown} is not UTF-8 text.", ctx, param)
    return value


def check_all_texts(command: click.Command) -> None:
    """Let all of a command's texts, and its subcommands', be checked."""
    for param in command.params:
        param.callback = param.callback or check_text
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        check_all_texts(inner)
