"""What a person means by the name of a clip: its number, its path, the first digits of its content's hash, a folder, a second."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from earmark_shared.errors import NotInLibraryError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from earmark_client.records import Clip
    from earmark_client.store.database import Database

SHA_PREFIX = 6
"""Hexadecimal digits of a content hash that name a clip."""
NUMBER_DIGITS = 18
"""A number with more digits is no clip's: SQLite's end before."""
HINT = "`earmark list` shows what there is."


def absolute(path: str | Path) -> Path:
    """The whole path of what a person named: `..` resolved in the text, `~/` in what no shell has seen, `~name` a name like any other."""
    text = os.fspath(path)
    return Path(os.path.abspath(os.path.expanduser(text) if text == "~" or text.startswith("~/") else text))  # noqa: PTH100, PTH111


def find_clip(database: Database, target: int | str | Path) -> Clip:
    """The one clip that `target` names: digits are a clip's number before anything else.

    Raises:
        NotInLibraryError: there is none, or more than one begins like that.
    """
    text = str(target)
    found = _by_number(database, text) or _by_path(database, text) or _by_hash(database, text)
    if found is None:
        raise NotInLibraryError(f"There is no clip {text}." if text else "An empty name is no clip's.", hint=HINT)
    return found


def find_places(database: Database, target: str) -> dict[int, set[str]]:
    """The one clip with this number, all clips below a folder, or the one that `target` names otherwise: by id, with the paths meant.

    A folder or a path means the paths below or there, and no copy elsewhere; a number or a hash means all of a clip's paths.

    Raises:
        NotInLibraryError: there is none.
    """
    if target and _by_number(database, target) is None:
        whole = str(absolute(target))
        for there in (database.paths_below(whole), database.paths_at(target), database.paths_at(whole)):
            if there:
                return there
    clip = find_clip(database, target)
    return {clip.id: set(clip.paths)}


def find_all_places(database: Database, targets: Iterable[str]) -> dict[int, set[str]]:
    """The same of several targets; NotInLibraryError if one of them is not there."""
    chosen: dict[int, set[str]] = {}
    for target in targets:
        for clip_id, paths in find_places(database, target).items():
            chosen.setdefault(clip_id, set()).update(paths)
    return chosen


def _by_number(database: Database, text: str) -> Clip | None:
    if text.isascii() and text.isdecimal() and len(text) <= NUMBER_DIGITS:
        with contextlib.suppress(NotInLibraryError):
            return database.clip(int(text))
    return None


def _by_path(database: Database, text: str) -> Clip | None:
    if not text:
        return None
    clip_id = database.clip_by_path(text) or database.clip_by_path(str(absolute(text)))
    return None if clip_id is None else database.clip(clip_id)


def _by_hash(database: Database, text: str) -> Clip | None:
    if len(text) < SHA_PREFIX:
        return None
    same = [clip for clip in database.clips() if clip.content_sha256.startswith(text.lower())]
    return same[0] if len(same) == 1 else None


def find_segment(database: Database, clip: Clip, at_s: float) -> int:
    """The id of the segment in the middle of those that hold second `at_s`; NotInLibraryError if there is none."""
    table = database.segments_of(clip.id)
    here = table.ids[(table.start_s <= at_s) & (at_s < table.end_s)]
    if not len(here):
        raise NotInLibraryError(f"Clip {clip.id} has nothing to hear at {at_s:g} s.", hint="`earmark show` says what is where.")
    return int(here[len(here) // 2])
