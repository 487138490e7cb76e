"""What is told to a command: options that contradict each other, or say what can't be done, are refused before anything happens."""

import os

import pytest

from earmark_client.cli import main as program
from earmark_client.cli.session import Session
from tests.cli.fake import FakeLibrary


@pytest.fixture
def library(monkeypatch):
    library = FakeLibrary()
    monkeypatch.setattr(Session, "library", library.opened)
    return library


@pytest.fixture
def earmark(library, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = program.main(["--home", str(tmp_path / "home"), *arguments])
        return code, capsys.readouterr().err

    return run


def test_an_export_replaces_a_file_only_when_that_is_said(earmark, library, tmp_path):
    (tmp_path / "out.json").write_text("mine")
    code, told = earmark("export", "out.json", "--format", "json", "--yes")
    assert (code, library.calls) == (10, [])
    assert "out.json: there is a file already" in told
    assert earmark("export", "out.json", "--format", "json", "--yes", "--replace")[0] == 0


def test_an_export_never_goes_where_the_library_or_its_key_is(earmark, library):
    for place in ("home/key.json", "key"):
        code, told = earmark("--key-file", "key", "export", place, "--recipient", "age1x", "--replace")
        assert (code, library.calls) == (10, [])
        assert "the library's" in told


def test_an_export_is_no_stream(earmark, library, tmp_path):
    code, told = earmark("export", "-", "--recipient", "age1x")
    assert (code, library.calls, list(tmp_path.iterdir())) == (2, [], [])
    assert "not to stdout" in told


@pytest.mark.parametrize(
    ("command", "asked"), [(["add", "shut.wav", "b.wav"], "add"), (["search", "--like", "shut.wav"], "search")]
)
def test_a_named_file_that_may_not_be_read_is_the_library_s_to_tell(earmark, library, tmp_path, monkeypatch, command, asked):
    (tmp_path / "shut.wav").write_text("x")
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert earmark(*command)[0] == 0
    assert library.calls[0][0] == asked


def test_an_example_that_may_not_be_read_is_the_library_s_to_tell(earmark, library, tmp_path, monkeypatch):
    (tmp_path / "shut.wav").write_text("x")
    library.teach = lambda name, files: library.calls.append((name, files)) or 1
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert earmark("teach", "bell", "shut.wav")[0] == 0
    assert library.calls == [("bell", [tmp_path / "shut.wav"])]


@pytest.mark.parametrize(
    ("options", "command"),
    [
        (["--key-file", "k"], ["init", "--passphrase"]),
        (["--key-file", "k", "--passphrase-file", "p"], ["init"]),
        (["--passphrase-fd", "0", "--passphrase-file", "p"], ["init"]),
        (["--passphrase-fd", "0"], ["init", "--passphrase"]),
        ([], ["passwd", "--new-passphrase-file", "p", "--new-key-file", "k"]),
        ([], ["passwd", "--new-passphrase-fd", "0", "--keyring"]),
    ],
)
def test_only_one_thing_opens_a_library(earmark, library, tmp_path, options, command):
    (tmp_path / "p").write_text("open sesame")
    code, told = earmark(*options, *command)
    assert (code, [path.name for path in tmp_path.iterdir()]) == (2, ["p"])
    assert "only one of them can open the library: --" in told


def test_a_key_file_of_the_environment_does_not_win_over_a_passphrase_that_is_wanted(earmark, tmp_path, monkeypatch):
    monkeypatch.setenv("EARMARK_KEY_FILE", str(tmp_path / "key"))
    code, told = earmark("init", "--passphrase")
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert "--key-file, --passphrase" in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--format", "json", "--yes", "--recipient", "age1x"], "--recipient seals"),
        (["--format", "json", "--yes", "--seal-passphrase-file", "p"], "--seal-passphrase-file seals"),
        (["--recipient", "age1x", "--seal-passphrase-file", "p"], "not by both"),
    ],
)
def test_an_export_is_readable_or_sealed_in_one_way(earmark, library, options, told):
    code, message = earmark("export", "out", *options)
    assert (code, library.calls) == (2, [])
    assert told in message
