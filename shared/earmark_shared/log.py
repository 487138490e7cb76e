"""A log that can't hold a path, a label, a query or a vector, whoever calls it and with what.

A line is the name of a listed event and listed numbers, nothing else:

    log_event(Event.ADD_DONE, files=12, seconds=3.4)      # earmark add.done files=12 seconds=3.4

`EventFilter` empties every record that did not come from here (message, arguments, traceback, extras), so that a handler
added by somebody else sees no more than ours does. No other module of Earmark imports `logging`; a test holds that.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from enum import StrEnum
from typing import TextIO

LOGGER = "earmark"
NUMBERS = frozenset(
    {
        "added", "clips", "files", "hits", "known", "moved", "problems", "removed", "seconds", "sound_s",
    }
)  # fmt: skip
"""The only names a number in the log may have."""
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__)


class Event(StrEnum):
    """Everything the log can say."""

    ADD_DONE = "add.done"
    SEARCH_DONE = "search.done"
    TEACH_DONE = "teach.done"
    REMOVE_DONE = "remove.done"
    UNLISTED = "unlisted"


class EventFilter(logging.Filter):
    """Reduce a record to its event and its listed, finite numbers."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Empty `record` of everything else; always let it through."""
        event = record.msg if isinstance(record.msg, Event) else Event.UNLISTED
        numbers = _listed(getattr(record, "numbers", {}))
        for name in set(record.__dict__) - _STANDARD:
            delattr(record, name)
        record.msg, record.args, record.numbers = event, (), numbers
        record.exc_info = record.exc_text = record.stack_info = None
        return True


class EventFormatter(logging.Formatter):
    """Write `earmark EVENT name=number ...`, from a record that may not have been filtered."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        event = record.msg if isinstance(record.msg, Event) else Event.UNLISTED
        numbers = _listed(getattr(record, "numbers", {}))
        return " ".join([LOGGER, event.value, *(f"{name}={value:.6g}" for name, value in sorted(numbers.items()))])


def start_log(stream: TextIO, *, level: int = logging.INFO) -> None:
    """Write events to `stream` from now on (before, nobody hears them); what was set up before is replaced."""
    logger = _logger()
    for old in list(logger.handlers):
        logger.removeHandler(old)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(EventFormatter())
    handler.addFilter(EventFilter())
    logger.addHandler(handler)
    logger.setLevel(level)


def log_event(event: Event, **numbers: float) -> None:
    """Log `event`; numbers whose names are not in `NUMBERS` are left out."""
    _logger().info(event, extra={"numbers": numbers})


def _logger() -> logging.Logger:
    logger = logging.getLogger(LOGGER)
    if not any(isinstance(known, EventFilter) for known in logger.filters):
        logger.addFilter(EventFilter())
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    return logger


def _listed(numbers: object) -> dict[str, float]:
    if not isinstance(numbers, Mapping):
        return {}
    return {
        name: value for name, value in numbers.items() if name in NUMBERS and type(value) in {int, float} and math.isfinite(value)
    }
