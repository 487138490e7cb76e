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
def shipped():
    bundle = Bundle.load(BASE_MODEL)
    return bundle, TextEncoder(bundle)


@pytest.fixture(autouse=True, scope="module")
def one_sentence_encoder():
    """Each library opens its sentence encoder, which takes longer than most tests and holds nothing of them: those of the shipped one's
    files, which are still read and checked, share one."""

    def opened(bundle):
        base, encoder = shipped()
        part = bundle.section("sentence")
        names = [part["file"], part["tokenizer"]]
        if part != base.section("sentence") or any(
            bundle.manifest["files"][name] != base.manifest["files"][name] for name in names
        ):
            return TextEncoder(bundle)
        for name in names:
            bundle.read(name)
        return encoder

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
