"""Released files, handed out a piece at a time; what is in them is public and signed, so nothing is checked here but the path."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from earmark_server.publish import Repository
from earmark_shared.errors import EarmarkError, HomeInUseError, MalformedError, SettingsError, StoreError
from earmark_shared.releasing import PATH, PIECE_SIZE, Piece, Wanted

TIMESTAMP = "metadata/timestamp.json"
ABSENT = Piece(is_there=False, size=0, data=b"")


class ReleasedFiles:
    """The files below a repository's `metadata` and `targets`; a repository that isn't there has none."""

    def __init__(self, repository: Repository, tell: Callable[[str], object] = sys.stderr.write) -> None:
        """Serve `repository`; its timestamp is signed anew when somebody asks for one that grows old, and if it can't be, `tell` hears why."""
        self._repository, self._tell = repository, tell
        self._signing = threading.Lock()
        self._told = ""

    def fetch(self, wanted: Wanted) -> Piece:
        """Return a piece of a file.

        Raises:
            MalformedError: the path is none that a release can have, or the piece would lie beyond the file.
        """
        path = wanted.path.decode("ascii", "replace")
        if PATH.fullmatch(path) is None:
            raise MalformedError("there is no such path in a release")
        if path == TIMESTAMP:
            self._keep_fresh()
        return _read(self._repository.folder / path, wanted.start)

    def _keep_fresh(self) -> None:
        """A server that can't sign hands out what it has, and one that is publishing at this moment is fresh anyway."""
        with self._signing:
            try:
                if (self._repository.folder / "root.json").exists():
                    self._repository.keep_fresh()
                self._told = ""
            except (SettingsError, StoreError) as error:
                self._tell_once(error)

    def _tell_once(self, error: EarmarkError) -> None:
        if isinstance(error, HomeInUseError) or self._told == str(error):
            return
        self._told = str(error)
        self._tell(f"earmark-server: releases can't be kept fresh: {error}\nhint: {error.hint}\n")


def _read(path: Path, start: int) -> Piece:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ABSENT
    try:
        size = os.fstat(descriptor).st_size
        if start > size:
            raise MalformedError("the file ends before this piece")
        return Piece(is_there=True, size=size, data=os.pread(descriptor, PIECE_SIZE, start))
    finally:
        os.close(descriptor)
