"""A test's home: `home` and `key` side by side in one folder."""

from earmark_client.library import Library
from earmark_client.store.keys import KeyFile


def open_library(folder):
    return Library.open(folder / "home", unlock=KeyFile(folder / "key"))
