"""What several tests of the command line start from."""

import pytest

from earmark_client.cli.session import Session
from tests.cli.fake import FakeLibrary


@pytest.fixture
def library(monkeypatch):
    library = FakeLibrary()
    monkeypatch.setattr(Session, "library", library.opened)
    return library
