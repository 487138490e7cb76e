"""What a program does when its answer can't be written: no room, a device that is gone, a reader that went away."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from earmark_shared.errors import DiskFullError, StoreError
from earmark_shared.files import FULL_DISK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def unwritten(error: OSError) -> StoreError:
    """Return what to tell of an answer that can't be written."""
    kind = DiskFullError if error.errno in FULL_DISK else StoreError
    return kind(f"the answer can't be written: {error.strerror}", hint="look at where its output goes")


def answer_no_more() -> None:
    """Let what is still to be written vanish, or the interpreter would complain of it at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def written_by(write: Callable[..., object]) -> Iterator[None]:
    """Explain an error of `write`, by which the library that reads the command line tells help and version; leave all others alone.

    Where nobody reads them to their end (`earmark --help | true`) that library wraps its streams and exits with 1; here it is no failure.

    Raises:
        DiskFullError: there is no room for the answer.
        StoreError: something else is wrong with where it goes.
    """
    stdout = sys.stdout
    try:
        yield
    except SystemExit:
        if sys.stdout is stdout:
            raise
        answer_no_more()
    except OSError as error:
        if not any(frame.f_code is write.__code__ for frame, _ in traceback.walk_tb(error.__traceback__)):
            raise
        answer_no_more()
        raise unwritten(error) from error
