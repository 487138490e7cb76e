"""For a module with a `filled` fixture, the folder of a home that is filled once: a copy for each test, and the copy opened."""

import shutil
from functools import cache

import pytest

from earmark_client.library import BASE_MODEL
from earmark_client.model import labeler
from earmark_client.model.bundle import Bundle
from tests.support.homes import open_library

TextEncoder = labeler.TextEncoder


@cache
def shipped_sentences():
    return TextEncoder(Bundle.load(BASE_MODEL))


@pytest.fixture(autouse=True, scope="module")
def one_sentence_encoder():
    """Each library opens the shipped sentence encoder, which takes longer than most tests and holds nothing of them: they share one."""

    def opened(bundle):
        return shipped_sentences() if bundle.folder == BASE_MODEL else TextEncoder(bundle)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(labeler, "TextEncoder", opened)
        yield


@pytest.fixture
def folder(filled, tmp_path):
    shutil.copytree(filled, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def library(folder):
    with open_library(folder) as library:
        yield library
