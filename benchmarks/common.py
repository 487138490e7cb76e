"""What benchmarks and scripts share: how they read what they are given, how they end, a folder to work in.

Wrong input is one line on stderr: an option's type refuses what is seen at once (exit code 2), `run` tells the rest.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from earmark_shared.errors import EarmarkError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from earmark_client.library import Library

COLUMNS = ("file", "label")
QUERIES_FORM = '{"dog": {"seen": ["dog"], "reworded": ["a dog barking"]}}'
Queries = dict[str, dict[str, list[str]]]
"""Label -> kind ("seen", and where there are any "reworded") -> texts."""


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are told in one line."""

    def __init__(self, told: str | None) -> None:
        super().__init__(description=told, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def data_folder(text: str) -> Path:
    """Read the name of a folder that is there."""
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not there, or no folder: name the folder that holds the recordings")
    return folder


def folder_with(*names: str) -> Callable[[str], Path]:
    """Return a type for folders in which these files are."""

    def read(text: str) -> Path:
        folder = data_folder(text)
        gone = [name for name in names if not (folder / name).exists()]
        if gone:
            raise argparse.ArgumentTypeError(f"{text} has no {', no '.join(gone)}: name the folder that has")
        return folder

    return read


def sound_folder(text: str) -> Path:
    """Read the name of a folder with sound files in it, at any depth."""
    from earmark_client.audio.find import FoundSound, find_sounds

    folder = data_folder(text)
    if not any(isinstance(each, FoundSound) for each in find_sounds([folder])):
        raise argparse.ArgumentTypeError(f"{text} has no sound files in it: name a folder with .wav, .flac, .ogg or .mp3 files")
    return folder


def plain_file(text: str) -> Path:
    """Read the name of a file that is there."""
    path = Path(text).expanduser()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text} is not there, or no file: name one that is")
    return path


def table(text: str) -> Path:
    """Read the name of a table with at least one row."""
    path = plain_file(text)
    try:
        lines_of(path)
    except EarmarkError as error:
        raise argparse.ArgumentTypeError(f"{error}; {error.hint}") from error
    return path


def queries(text: str) -> Queries:
    """Read a JSON file of queries by label."""
    path = plain_file(text)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as refusal:
        raise argparse.ArgumentTypeError(f"{text} is no JSON ({refusal}): write {QUERIES_FORM}") from refusal
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text} holds no object of queries by label: write {QUERIES_FORM}")
    for label, kinds in found.items():
        for kind in ("seen", "reworded"):
            texts = kinds.get(kind, [] if kind == "reworded" else None) if isinstance(kinds, dict) else None
            if not (isinstance(texts, list) and all(isinstance(each, str) for each in texts)):
                raise argparse.ArgumentTypeError(f'{text}: "{label}" has no list of texts "{kind}": write {QUERIES_FORM}')
    return found


def at_least(least: float, most: float = math.inf) -> Callable[[str], Any]:
    """Return a type for numbers from `least` to `most`: whole ones if `least` is whole."""
    kind = type(least)

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(least) - 1
        if not least <= value <= most or value == math.inf:
            bounds = f"{least} or more" if most == math.inf else f"at least {least:g} and at most {most:g}"
            raise argparse.ArgumentTypeError(f"{text}: give a {'whole ' if kind is int else ''}number, {bounds}")
        return value

    return read


def share(text: str) -> float:
    """Read a share in [0, 1)."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"{text}: give a share, at least 0 and less than 1")
    return value


@dataclass(frozen=True)
class Row:
    """One labelled file of a table; `line` is all that the table says of it."""

    path: Path
    label: str
    group: str
    line: Mapping[str, str] = field(default_factory=dict, compare=False)


def lines_of(path: Path, columns: Sequence[str] = COLUMNS) -> list[dict[str, str]]:
    """A table's rows by column; `columns` are those that it needs.

    Raises:
        SettingsError: it can't be read, lacks a column, or has no rows.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as source:
            reader = csv.DictReader(source, restval="")
            named, lines = reader.fieldnames or (), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as refusal:
        raise SettingsError(f"{path} can't be read ({refusal})", hint="give a table as CSV in UTF-8") from refusal
    gone = [f"`{name}`" for name in columns if name not in named]
    if gone:
        raise SettingsError(
            f"{path} has no column {' and no column '.join(gone)}", hint=f"its first line names them: {','.join(columns)}"
        )
    if not lines:
        raise SettingsError(f"{path} has no rows", hint=f"give one for each recording, below the line `{','.join(columns)}`")
    return lines


def read_rows(data: Path, table: Path, asked: Queries | None = None) -> list[Row]:
    """Read a table of recordings in `data`; one without `freesound_id` or `group` is a group of its own.

    Raises:
        SettingsError: files are missing, or no label of `asked` is in the table.
    """
    from earmark_client.naming import absolute

    rows = [
        Row(absolute(data / line["file"]), line["label"], line.get("freesound_id") or line.get("group") or line["file"], line)
        for line in lines_of(table)
    ]
    gone = [row.path for row in rows if not row.path.is_file()]
    if gone:
        told = f"{len(gone)} of the {len(rows)} files of {table} are not in {data}: {gone[0]}"
        raise SettingsError(told, hint="give as --data the folder that `file` is meant from")
    if asked is not None and not {row.label for row in rows} & asked.keys():
        raise SettingsError(f"no query is about a label of {table}", hint=f"it has {rows[0].label!r}, the queries {[*asked][:3]}")
    return rows


def add_rows(library: Library, rows: list[Row]) -> list[Row]:
    """Add recordings; those that can't be read are told and left out of what is returned.

    Raises:
        SettingsError: none can be read.
    """
    for path, problem in library.add([row.path for row in rows]).problems:
        say(f"{path}: {problem}")
    known = {path for clip in library.clips() for path in clip.paths}
    added = [row for row in rows if str(row.path) in known]
    if not added:
        raise SettingsError("none of the table's files can be read as sound", hint="what is wrong with each is told above")
    return added


def say(*parts: object) -> None:
    """A line for the person who waits; the result alone goes to stdout."""
    print(*parts, file=sys.stderr, flush=True)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a program; what it can't do is one line on stderr and the error's exit code (1 for the system's)."""
    try:
        sys.exit(main())
    except EarmarkError as error:
        told, code = f"{error}; {error.hint}" if error.hint else f"{error}", error.exit_code
    except OSError as error:
        told, code = str(error), 1
    say(f"{Path(sys.argv[0]).name}: {' '.join(told.split())}")
    sys.exit(code)


def finish(result: dict[str, Any]) -> None:
    """The last line: one JSON object.

    Raises:
        SettingsError: a figure is no number, which JSON could not hold.
    """
    try:
        line = json.dumps(result, allow_nan=False)
    except ValueError as refusal:
        raise SettingsError(f"a figure is not a number: {result}", hint="give more clips to measure on") from refusal
    say(f"load of the last minute: {os.getloadavg()[0]:.2f} on {len(os.sched_getaffinity(0))} processors")
    print(line, flush=True)


@contextmanager
def working_folder(keep: Path | None = None) -> Iterator[Path]:
    """A fresh folder that is removed at the end, or `keep`, which stays and may hold what an earlier run built."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.absolute()
        return
    folder = Path(tempfile.mkdtemp(prefix="earmark-benchmark-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
