"""How anything reaches the terminal: the only module of Earmark that prints.

Rules:
  1. What was asked for goes to stdout; everything else (progress, notes, problems) goes to stderr.
  2. A table only when stdout is a terminal; otherwise one line a record, its columns separated by tabs. `--json` is one object a line.
  3. A progress bar only when stderr is a terminal. Colour only on a terminal, and never with NO_COLOR.
  4. A file's name can hold anything, so control characters are shown escaped and never reach the terminal.
  5. A problem is one line that says what is wrong and, when there is something to do about it, one that starts with `hint:`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import click

from earmark_shared.answering import answer_no_more, unwritten

if TYPE_CHECKING:
    from earmark_client.tally import AddProgress

BAR_CELLS = 24
BOLD, RED, YELLOW, PLAIN = "\033[1m", "\033[31m", "\033[33m", "\033[0m"


@dataclass(frozen=True)
class Output:
    """Where lines go and how they look, decided once at the start."""

    stdout: TextIO
    stderr: TextIO
    color: bool = True

    def rows(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Write records: an aligned table on a terminal, tab-separated lines without a heading elsewhere."""
        shown = [[visible(cell) for cell in row] for row in rows]
        if not self.stdout.isatty():
            for row in shown:
                self.line("\t".join(row))
        elif shown:
            self._table(list(columns), shown)

    def records(self, records: Iterable[Mapping[str, object]]) -> None:
        """Write one JSON object a line."""
        for record in records:
            self.line(json.dumps(record))

    def line(self, text: str) -> None:
        """Write one line of what was asked for."""
        with answering():
            print(text, file=self.stdout)

    def note(self, text: str) -> None:
        """Say something about the work on stderr."""
        with suppress(OSError):  # nobody is left to tell
            print(visible(text), file=self.stderr)

    def problem(self, message: str, hint: str = "") -> None:
        """Say what is wrong and what to do about it."""
        with suppress(OSError):
            print(self._paint(self.stderr, RED, "earmark:"), visible(message), file=self.stderr)
            if hint:
                print(self._paint(self.stderr, YELLOW, "hint:"), visible(hint), file=self.stderr)

    @contextmanager
    def progress(self) -> Iterator[Callable[[AddProgress], None]]:
        """Give what redraws a progress bar, silent unless stderr is a terminal; whoever stops the work is told how far it came."""
        done = ""

        def draw(now: AddProgress) -> None:
            nonlocal done
            done = f"at least {now.done_files} of {count(now.total_files, 'file')} done"
            self.status(progress_line(now))

        try:
            yield draw
        except KeyboardInterrupt:
            self.end_progress()
            if done:
                self.note(done)
            raise
        self.end_progress()

    def status(self, text: str) -> None:
        """Redraw the line that says what goes on; silent unless stderr is a terminal."""
        if self.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=self.stderr, flush=True)

    def end_progress(self) -> None:
        """Clear the progress bar."""
        if self.stderr.isatty():
            print("\r\033[K", end="", file=self.stderr, flush=True)

    def _table(self, columns: list[str], rows: list[list[str]]) -> None:
        widths = [max(len(row[place]) for row in [columns, *rows]) for place in range(len(columns))]
        for place, row in enumerate([columns, *rows]):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            self.line(line if place else self._paint(self.stdout, BOLD, line))

    def _paint(self, stream: TextIO, style: str, text: str) -> str:
        return f"{style}{text}{PLAIN}" if self.color and stream.isatty() else text


@contextmanager
def answering() -> Iterator[None]:
    """Say why an answer can't be written; where its reader went away (`earmark list | head`) the command ends, which is no failure.

    Raises:
        DiskFullError: there is no room for it.
        StoreError: something else is wrong with where it goes.
    """
    try:
        yield
    except BrokenPipeError as gone:
        answer_no_more()
        raise click.exceptions.Exit(0) from gone  # click would make 1 of an error that says EPIPE
    except OSError as error:
        answer_no_more()
        raise unwritten(error) from error


def open_missing_streams() -> None:
    """Put /dev/null where a standard stream was closed (`earmark list >&-`).

    A file of ours would else take its descriptor, and what libraries print would go into that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115  the lowest free descriptor, for good
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def standard_output(*, color: bool = True) -> Output:
    """Return the output of this process; names that are no valid text are escaped, never an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    return Output(sys.stdout, sys.stderr, color=color)


def visible(text: str) -> str:
    """Return `text` with control characters (and what could reorder a line) escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def examples(*commands: str) -> str:
    """Return the lines that end a command's help."""
    return "\b\nExample:\n" + "\n".join(f"  {command}" for command in commands)


def clock(seconds: float) -> str:
    """Return a moment as people read it: 0:07.5, 12:30.0, 1:02:03.0."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    start = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{start}:{rest // 10:02d}.{rest % 10}"


def count(number: int, noun: str) -> str:
    """Return how many of something there are, in words: 1 clip, 2 clips."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def progress_line(now: AddProgress) -> str:
    """Return the bar: share done, speed as a multiple of real time, time left."""
    share = now.done_files / now.total_files if now.total_files else 1.0
    bar = ("#" * round(share * BAR_CELLS)).ljust(BAR_CELLS, ".")
    rate = f"{now.sound_s / now.elapsed_s:.0f}x realtime" if now.elapsed_s > 0 else ""
    left = f"{clock(now.elapsed_s * (1 - share) / share)} left" if share > 0 else ""
    return "  ".join(
        part for part in (f"[{bar}] {now.done_files}/{now.total_files}", rate, left, visible(now.current)[-40:]) if part
    )
