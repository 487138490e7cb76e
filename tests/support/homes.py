"""What stands on a test's disk: a home with `home` and `key` side by side in one folder, or a database alone."""

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from earmark_client.library import Library
from earmark_client.store.database import Database
from earmark_client.store.keys import KeyFile


def open_library(folder):
    return Library.open(folder / "home", unlock=KeyFile(folder / "key"))


@cache
def _empty(key):
    """A database without content, made once for a whole run: its tables, each waiting for the disk, take longer than most tests."""
    folder = Path(tempfile.mkdtemp(prefix="earmark-empty-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Database.create(folder / "library.db", key).close()
    return folder / "library.db"


_KEY = os.urandom(32)


def new_database(folder, name="library.db", *, key=_KEY):
    """An open, empty database of a test's own."""
    shutil.copy(_empty(key), folder / name)
    return old_database(folder, name, key=key)


def old_database(folder, name="library.db", *, key=_KEY):
    """One that was new once, or a copy of it."""
    return Database.open(folder / name, key)
