"""Opens a sound file once, safely: a plain file inside the folder that was named, and only then looked into."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from earmark_client.audio.worker import behind_tag
from earmark_shared.errors import (
    AudioError,
    AudioLimitError,
    DamagedAudioError,
    EmptyAudioError,
    NotAudioError,
    UnreadableAudioError,
    UnsafePathError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LARGEST_FILE_BYTES = 16 * 1024**3
CONTAINERS = "WAV, FLAC, Ogg Vorbis or Opus, MP3 or AIFF"
_HASH_BLOCK = 1 << 20


def display_name(path: str | os.PathLike[str]) -> str:
    """A path as it may be shown: control characters, bidirectional overrides and undecodable bytes are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text)


def check_name(path: Path) -> None:
    """Refuse a name that is not UTF-8 or holds a NUL: it could be neither stored nor typed again."""
    try:
        is_text = "\0" not in os.fspath(path) and bool(os.fspath(path).encode("utf-8"))
    except UnicodeEncodeError:
        is_text = False
    if not is_text:
        message = f"{display_name(path)}: the name is not valid UTF-8 text"
        raise UnsafePathError(message, hint="rename the file, for example with: convmv -t utf8")


@contextmanager
def open_sound(path: Path, roots: Sequence[Path]) -> Iterator[int]:
    """A read-only descriptor of a regular file inside one of `roots`.

    Raises:
        UnsafePathError: a link, a device, a folder, or outside every root.
        UnreadableAudioError: not there, not permitted, or on a disk that fails.
        AudioLimitError: larger than 16 GiB.
        EmptyAudioError: zero bytes.
        DamagedAudioError: the file changed while it was open.
    """
    check_name(path)
    check_inside(path, roots)
    descriptor = _open(path)
    try:
        before = status_of(descriptor, path)
        _check_plain(path, before)
        yield descriptor
        after = status_of(descriptor, path)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            message = f"{display_name(path)}: the file changed while it was being read"
            raise DamagedAudioError(message, hint="wait until the recording is finished, then add it again")
    finally:
        os.close(descriptor)


def check_inside(path: Path, roots: Sequence[Path]) -> None:
    """Refuse a path whose folder, all links followed, lies outside every root."""
    real = Path(os.path.realpath(path.parent)) / path.name
    for root in roots:
        real_root = Path(os.path.realpath(root))
        if real == real_root or real_root in real.parents:
            if path.name in {"", ".."}:
                break
            return
    message = f"{display_name(path)}: lies outside the folder that was named"
    raise UnsafePathError(message, hint="name the file itself, or add the folder it is in")


def _open(path: Path) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    with _read_errors(path):
        return os.open(path, flags)


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """An open file can be refused too: the disk fails, the network drive is gone."""
    try:
        yield
    except OSError as refusal:
        raise _translated(path, refusal) from refusal


def _translated(path: Path, refusal: OSError) -> AudioError:
    """The error a person can act on."""
    name = display_name(path)
    if refusal.errno in {errno.ELOOP, errno.EMLINK}:
        return UnsafePathError(f"{name}: is a link", hint="name the file that the link points to")
    if refusal.errno in {errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP}:
        return UnsafePathError(f"{name}: is not a plain file", hint="only plain files can be added")
    if refusal.errno in {errno.ENOENT, errno.ENOTDIR}:
        return UnreadableAudioError(f"{name}: no such file", hint="check the spelling")
    if refusal.errno in {errno.EACCES, errno.EPERM}:
        return UnreadableAudioError(f"{name}: you may not read this file", hint="give yourself the right to read it (chmod u+r)")
    return UnreadableAudioError(f"{name}: can't be read ({refusal.strerror})", hint="check the disk it is on")


def _check_plain(path: Path, status: os.stat_result) -> None:
    name = display_name(path)
    if stat.S_ISDIR(status.st_mode):
        raise UnsafePathError(f"{name}: is a folder, not a sound file", hint="add the folder itself, or the files in it")
    if not stat.S_ISREG(status.st_mode):
        raise UnsafePathError(f"{name}: is not a plain file", hint="only plain files can be added")
    if status.st_size > LARGEST_FILE_BYTES:
        raise AudioLimitError(f"{name}: is larger than 16 GiB", hint="split the recording into shorter files")
    if status.st_size == 0:
        raise EmptyAudioError(f"{name}: the file is empty (0 bytes)", hint="copy it again from where it came")


def content_sha256(path: Path, descriptor: int | None = None) -> str:
    """Hex digest of a file's bytes; reading by an open descriptor leaves its position alone. Raises an AudioError."""
    if descriptor is None:
        with open_sound(path, (path.parent,)) as opened:
            return content_sha256(path, opened)
    digest = hashlib.sha256()
    place = 0
    with _read_errors(path):
        while block := os.pread(descriptor, _HASH_BLOCK, place):
            digest.update(block)
            place += len(block)
    return digest.hexdigest()


def container_of(descriptor: int, path: Path) -> str:
    """What the first bytes say the file is, one of WAV, FLAC, OGG, MP3, AIFF; raises NotAudioError for anything else."""
    with _read_errors(path):
        start = os.pread(descriptor, 16, 0)
    if start[:4] in {b"RIFF", b"RF64"} and start[8:12] == b"WAVE":
        return "WAV"
    if start[:4] == b"FORM" and start[8:12] in {b"AIFF", b"AIFC"}:
        return "AIFF"
    if behind := behind_tag(start):  # some programs put MP3's tags in front of FLAC, too
        with _read_errors(path):
            return "FLAC" if os.pread(descriptor, 4, behind) == b"fLaC" else "MP3"
    for magic, name in ((b"fLaC", "FLAC"), (b"OggS", "OGG")):
        if start.startswith(magic):
            return name
    if _is_mpeg_frame(start):
        return "MP3"
    message = f"{display_name(path)}: is not a sound file that Earmark reads"
    raise NotAudioError(message, hint=f"Earmark reads {CONTAINERS}; convert the file first")


def _is_mpeg_frame(start: bytes) -> bool:
    """Whether the bytes begin an MPEG audio layer III frame with a defined version, rate and bitrate."""
    if len(start) < 4 or start[0] != 0xFF or start[1] & 0xE0 != 0xE0:
        return False
    is_layer_three = start[1] & 0x06 == 0x02 and start[1] & 0x18 != 0x08
    return is_layer_three and start[2] & 0xF0 not in {0xF0, 0x00} and start[2] & 0x0C != 0x0C


def status_of(descriptor: int, path: Path) -> os.stat_result:
    """Size and time of an open file, whatever became of its name since."""
    with _read_errors(path):
        return os.fstat(descriptor)


def is_gone(path: str) -> bool:
    """Whether nothing lies at a path; in a folder that can't be entered, or on a drive that fails, it may still be there."""
    try:
        os.stat(path)  # noqa: PTH116  Path.exists raises what it can't tell
    except OSError as refusal:
        return refusal.errno in {errno.ENOENT, errno.ENOTDIR}
    return False
