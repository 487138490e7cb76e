"""Small private files: written whole or not at all, readable by their owner only, never through a symlink."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import secrets
import stat
from types import TracebackType
from typing import TYPE_CHECKING, Self

from earmark_shared.errors import DiskFullError, HomeInUseError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCRATCH_BYTES = 6
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Translate what the operating system says about `path`: DiskFullError when there is no room, else StoreError."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            raise DiskFullError(hint="Make room on the disk and run the command again.") from error
        raise StoreError(f"{path}: {error.strerror}", hint="Check the folder's owner and permissions.") from error


def harden_process() -> None:
    """Make every new file private (umask 077) and leave no core dump, which would hold keys and vectors."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def make_private_folder(path: Path) -> None:
    """Create `path` with its parents; `path` itself ends up 0700."""
    with disk_errors(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)


def sync_folder(path: Path) -> None:
    """Make a rename or unlink inside `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that a reader, or a power cut, sees the old file or the new one and nothing between; 0600."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(SCRATCH_BYTES)}")
    with disk_errors(path):
        try:
            _write_new(scratch, data)
            scratch.replace(path)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def scratch_files(path: Path) -> list[Path]:
    """What `write_atomic` left beside `path` where it was killed: as secret as the file itself."""
    return sorted(path.parent.glob(f".{path.name}.{'[0-9a-f]' * 2 * SCRATCH_BYTES}"))


def write_private(path: Path, data: bytes) -> None:
    """Write `data` to a file that must not exist yet; 0600."""
    with disk_errors(path):
        _write_new(path, data)
        sync_folder(path.parent)


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_private(path: Path, limit: int = 1 << 20) -> bytes:
    """Read a secret file of at most `limit` bytes; a symlink, or a file that others may read, raises StoreError."""
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise StoreError(f"{path} is not a plain file.")
        if status.st_mode & 0o077:
            raise StoreError(f"{path} can be read by others.", hint=f"Close it to them: chmod 600 {path}")
        data = os.read(descriptor, limit + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise StoreError(f"{path} is larger than {limit} bytes.")
    return data


def wipe(path: Path) -> None:
    """Overwrite a small secret file with random bytes, then unlink it; a missing file is fine.

    Copy-on-write file systems and flash keep old blocks, so the overwriting is a second line, not the promise.
    """
    with disk_errors(path):
        if not path.is_symlink() and path.is_file():
            descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.write(descriptor, secrets.token_bytes(os.fstat(descriptor).st_size))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        path.unlink(missing_ok=True)


class FileLock:
    """An exclusive lock that the kernel drops when its process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        """Name the lock file; nothing is taken yet."""
        self._path = path
        self._descriptor: int | None = None
        self._depth = 0

    def acquire(self) -> None:
        """Take the lock (again, if this object holds it); HomeInUseError when another holder has it."""
        if self._descriptor is None:
            with disk_errors(self._path):
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                raise HomeInUseError(hint="Wait for it to end, or stop it.") from error
            self._descriptor = descriptor
        self._depth += 1

    def is_held(self) -> bool:
        """Say whether somebody holds the lock now; who tries to take it in this very instant may be refused."""
        try:
            with FileLock(self._path):
                return False
        except HomeInUseError:
            return True

    def release(self) -> None:
        """Give back one `acquire`; the last one frees the lock."""
        self._depth -= 1
        if self._depth == 0 and self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        """Take the lock for a `with` block."""
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Free it."""
        self.release()
