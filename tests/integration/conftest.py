"""For a module with a `filled` fixture, the folder of a home that is filled once: a copy for each test, and the copy opened."""

import shutil

import pytest

from tests.support.homes import open_library


@pytest.fixture
def folder(filled, tmp_path):
    shutil.copytree(filled, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def library(folder):
    with open_library(folder) as library:
        yield library
