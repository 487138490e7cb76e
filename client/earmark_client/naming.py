"""What a person means by the name of a clip: its number, its path, the first digits of its content's hash, a folder, a second."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from earmark_shared.errors import NotInLibraryError

if TYPE_CHECKING:
    from earmark_client.records import Clip
    from earmark_client.store.database import Database

SHA_PREFIX = 6
"""Hexadecimal digits of a content hash that name a clip."""


def find_clip(database: Database, target: int | str | Path) -> Clip:
    """The one clip that `target` names.

    Raises:
        NotInLibraryError: there is none, or more than one begins like that.
    """
    text = str(target)
    by_path = database.clip_by_path(text) or database.clip_by_path(str(Path(text).expanduser().absolute()))
    if by_path is not None:
        return database.clip(by_path)
    if text.isdecimal() and len(text) < SHA_PREFIX:
        return database.clip(int(text))
    same = [clip for clip in database.clips() if clip.content_sha256.startswith(text.lower())]
    if len(text) >= SHA_PREFIX and len(same) == 1:
        return same[0]
    if text.isdecimal():
        return database.clip(int(text))
    raise NotInLibraryError(f"There is no clip {text}.", hint="`earmark list` shows what there is.")


def find_clips(database: Database, target: str) -> list[int]:
    """The ids of all clips below a folder, or of the one clip that `target` names; NotInLibraryError if there is none."""
    folder = database.clip_ids(folder=str(Path(target).expanduser().absolute()))
    return [int(clip_id) for clip_id in folder] if len(folder) else [find_clip(database, target).id]


def find_segment(database: Database, clip: Clip, at_s: float) -> int:
    """The id of the segment in the middle of those that hold second `at_s`; NotInLibraryError if there is none."""
    table = database.segments_of(clip.id)
    here = table.ids[(table.start_s <= at_s) & (at_s < table.end_s)]
    if not len(here):
        raise NotInLibraryError(f"Clip {clip.id} has nothing to hear at {at_s:g} s.", hint="`earmark show` says what is where.")
    return int(here[len(here) // 2])
