"""From what a person named - files, folders, patterns - to sound files, each with the folder it must stay in."""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from earmark_client.audio.opening import check_name, display_name
from earmark_shared.errors import AudioError, UnreadableAudioError, UnsafePathError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SUFFIXES = frozenset({".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc"})
OTHER_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("3gp", "aac", "ac3", "amr", "ape", "au", "caf", "dff", "dsf", "dts", "m4a", "m4b", "mka", "mp2", "mp4", "mpc", "ra"),
        *("snd", "spx", "tta", "voc", "w64", "wma", "wv"),
    )
)
"""What holds sound, too, and is not read."""


@dataclass(frozen=True)
class FoundSound:
    """A file to decode and the folder that it must not lead out of."""

    path: Path
    root: Path


@dataclass(frozen=True)
class FindProblem:
    """Something that was named or met and can't be added; the rest goes on."""

    path: Path
    error: AudioError
    is_folder: bool = False
    """It is a folder, and what lies below is not known."""


@dataclass(frozen=True)
class PassedOver:
    """A sound file, by its name, of a format that is not read; it was not named itself."""

    path: Path


Found = FoundSound | FindProblem | PassedOver


def find_sounds(paths: Iterable[str | Path]) -> Iterator[Found]:
    """Every sound under `paths`, in order, each folder's sorted.

    A folder gives its files with a sound's suffix, subfolders included, links never followed. A file named outright is given
    whatever its suffix. A name that doesn't exist and has `*`, `?` or `[` in it is a pattern (`**` for any depth).
    """
    for named in paths:
        path = Path(named)
        try:
            check_name(path)
            status = _status(path)
        except AudioError as error:
            yield FindProblem(path, error)
            continue
        if status is None:
            yield from _matches(path)
        elif stat.S_ISDIR(status.st_mode):
            yield from _in_folder(path, path)
        else:
            yield _judged(path, path.parent, status)


def _status(path: Path) -> os.stat_result | None:
    """Of a link, the link's own unless it leads to a folder that was named outright; None if nothing is there."""
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode) and path.is_dir():
            return path.stat()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as refusal:
        if closed := _closed_above(path):
            raise _closed_error(closed) from refusal
        name = display_name(path)
        raise UnreadableAudioError(f"{name}: can't be looked at", hint="check its permissions and the disk it is on") from refusal
    return status


def _enter(folder: Path) -> None:
    """Raise OSError if what a folder holds can't be looked at; a folder can be listed all the same."""
    os.lstat(os.path.join(folder, "."))  # noqa: PTH118  a Path would leave the dot out


def _closed_above(path: Path) -> Path | None:
    """The uppermost folder above a path that can't be entered, if there is one."""
    for folder in reversed(path.parents):
        try:
            _enter(folder)
        except OSError:
            return folder
    return None


def _closed_error(folder: Path) -> UnreadableAudioError:
    message = f"{display_name(folder)}: this folder can't be listed or entered"
    return UnreadableAudioError(message, hint="check its permissions (r and x) and the disk it is on")


def _judged(path: Path, root: Path, status: os.stat_result) -> FoundSound | FindProblem:
    """A plain file, or why it isn't one."""
    name = display_name(path)
    if stat.S_ISREG(status.st_mode):
        return FoundSound(path, root)
    if stat.S_ISLNK(status.st_mode):
        return FindProblem(path, UnsafePathError(f"{name}: is a link", hint="name the file that the link points to"))
    return FindProblem(path, UnsafePathError(f"{name}: is not a plain file", hint="only plain files can be added"))


def _matches(pattern: Path) -> Iterator[Found]:
    """What a pattern matches: folders are searched, files with a sound's suffix taken."""
    text = os.fspath(pattern)
    was_found = False
    if glob.has_magic(text):
        for found in _matches_at_any_depth(pattern) if "**" in pattern.parts else _matches_at_its_depth(pattern):
            was_found |= not isinstance(found, PassedOver)
            yield found
    if not was_found:
        reason = "matches no sound file" if glob.has_magic(text) else "no such file or folder"
        yield FindProblem(pattern, UnreadableAudioError(f"{display_name(pattern)}: {reason}", hint="check the spelling"))


def _matches_at_its_depth(pattern: Path) -> Iterator[Found]:
    root = _fixed_part(pattern)
    real_root = Path(os.path.realpath(root))
    for match in _expanded(root, pattern.relative_to(root).parts):
        if isinstance(match, FindProblem):
            yield match
        elif Path(os.path.realpath(match.parent)) != real_root / match.parent.relative_to(root):
            yield from _link_problem(match, root)
        else:
            yield from _member(match, root)


def _expanded(folder: Path, parts: tuple[str, ...]) -> Iterator[Path | FindProblem]:
    """What a pattern matches below a folder, as `glob.glob` has it; but folders on the way that are closed are named, not passed over."""
    if not parts:
        yield folder
        return
    try:
        names = _fitting(folder, parts[0])
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # such a name is nowhere
            yield FindProblem(folder, _closed_error(folder), is_folder=True)
        return
    for name in names:
        yield from _expanded(folder / name, parts[1:])


def _fitting(folder: Path, part: str) -> list[str]:
    """The names in a folder that fit one part of a pattern; hidden ones only if it begins with a dot."""
    if not glob.has_magic(part):
        os.lstat(folder / part)
        return [part]
    return [name for name in _list(folder) if fnmatch.fnmatchcase(name, part) and (name[0] != "." or part[0] == ".")]


def _list(folder: Path) -> list[str]:
    """A folder's names, sorted; OSError if they can't be listed, or what they name not be looked at."""
    names = sorted(os.listdir(folder), key=os.fsencode)  # noqa: PTH208  names, not paths, are sorted and joined
    _enter(folder)
    return names


def _matches_at_any_depth(pattern: Path) -> Iterator[Found]:
    """`**` by our own walk: glob's follows links, round and round."""
    root = _fixed_part(pattern)
    wanted = pattern.relative_to(root).parts
    for found in _in_folder(root, root):
        parts = found.path.relative_to(root).parts
        is_unknown = isinstance(found, FindProblem) and found.is_folder
        if _fits_below(parts, wanted) if is_unknown else _fits(parts, wanted):
            yield found


def _fits(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Whether a path matches a pattern, part by part; `**` stands for any number of parts."""
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return _fits(parts, wanted[1:]) or (bool(parts) and _fits(parts[1:], wanted))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], wanted[0]) and _fits(parts[1:], wanted[1:])


def _fits_below(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Whether something below a folder may match a pattern."""
    if not parts or not wanted:
        return bool(wanted)
    return wanted[0] == "**" or (fnmatch.fnmatchcase(parts[0], wanted[0]) and _fits_below(parts[1:], wanted[1:]))


def _fixed_part(pattern: Path) -> Path:
    """The folder before the first wildcard."""
    fixed = Path()
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


def _in_folder(folder: Path, root: Path) -> Iterator[Found]:
    """Depth first, names sorted; a folder that can't be listed is a problem, the rest goes on."""
    waiting: list[Path] = []
    yield from _listed(folder, waiting)
    while waiting:  # no recursion: folders can lie deeper in each other than Python's calls may
        path = waiting.pop()
        try:
            status = os.lstat(path)
        except OSError:
            continue  # gone since it was listed
        yield from _listed(path, waiting) if stat.S_ISDIR(status.st_mode) else _entry(path, root, status)


def _listed(folder: Path, waiting: list[Path]) -> Iterator[FindProblem]:
    """Put a folder's entries on top of `waiting`, the first uppermost."""
    try:
        names = _list(folder)
    except OSError:
        yield FindProblem(folder, _closed_error(folder), is_folder=True)
        return
    waiting.extend(folder / name for name in reversed(names))


def _member(path: Path, root: Path) -> Iterator[Found]:
    """What a pattern's match gives: mostly itself, a folder all that is below it."""
    try:
        status = os.lstat(path)
    except OSError:
        return  # gone since it was matched
    yield from _in_folder(path, root) if stat.S_ISDIR(status.st_mode) else _entry(path, root, status)


def _entry(path: Path, root: Path, status: os.stat_result) -> Iterator[Found]:
    """What an entry that is no folder gives: itself, or nothing."""
    if stat.S_ISLNK(status.st_mode):
        yield from _link_problem(path, root)
    elif path.suffix.lower() in SUFFIXES:
        try:
            check_name(path)
        except AudioError as error:
            yield FindProblem(path, error)
        else:
            yield _judged(path, root, status)
    elif path.suffix.lower() in OTHER_SUFFIXES and stat.S_ISREG(status.st_mode):
        yield PassedOver(path)


def _link_problem(path: Path, root: Path) -> Iterator[FindProblem]:
    """A link that leads out of the folder is named; one within it is passed over, since its target is found itself."""
    target = Path(os.path.realpath(path))
    real_root = Path(os.path.realpath(root))
    if target == real_root or real_root in target.parents:
        return
    if target.is_dir() or path.suffix.lower() in SUFFIXES:
        message = f"{display_name(path)}: is a link that leads out of the folder"
        yield FindProblem(path, UnsafePathError(message, hint="add the folder that it leads to"))
