"""What is told to a command: options that contradict each other, or say what can't be done, are refused before anything happens."""

import json
import os
import time
from dataclasses import replace
from datetime import datetime

import pytest

from earmark_client.cli import main as program
from tests.cli.fake import CLIP


@pytest.fixture
def earmark(library, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = program.main(["--home", str(tmp_path / "home"), *arguments])
        return code, capsys.readouterr().err

    return run


@pytest.fixture(params=["UTC", "Pacific/Auckland", "America/Anchorage"])
def zone(request, monkeypatch):
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("2026-03-01", datetime(2026, 3, 1)),  # noqa: DTZ001  of the clock on the wall
        ("2026-03-01T00:00", datetime(2026, 3, 1)),  # noqa: DTZ001
        ("2026-03-01T10:20:30", datetime(2026, 3, 1, 10, 20, 30)),  # noqa: DTZ001
        ("2026-03-01T10:20:30Z", datetime.fromisoformat("2026-03-01T10:20:30+00:00")),
    ],
)
def test_a_moment_is_local_unless_it_names_its_zone(earmark, library, zone, said, meant):
    earmark("search", "dog", "--after", said, "--before", said)
    assert (library.calls[0][1].after_s, library.calls[0][1].before_s) == (meant.timestamp(),) * 2


def test_the_day_that_is_listed_and_the_moment_in_json_can_be_asked_for(library, capsys, zone):
    for seconds in (1_600_000_000.0, 1_600_040_000.0):
        library.clips = lambda seconds=seconds, **_: [replace(CLIP, recorded_at_s=seconds)]
        program.main(["list"])
        day = capsys.readouterr().out.split("\t")[2]
        program.main(["list", "--json"])
        moment = json.loads(capsys.readouterr().out)["recorded_at"]
        program.main(["search", "dog", "--after", day, "--before", moment])
        capsys.readouterr()
        query = library.calls[-1][1]
        assert query.after_s <= seconds == query.before_s
        assert seconds - query.after_s < 25 * 3600


@pytest.mark.parametrize("said", ["0001-01-01", "9999-12-31", "0001-01-01T00:00Z", "9999-12-31T23:59:59-23:00"])
def test_the_calendar_s_ends_are_moments(earmark, library, zone, said):
    assert earmark("search", "dog", "--after", said)[0] == 0


@pytest.mark.parametrize("said", ["yesterday", "2026-13-01", "", "1600000000"])
def test_what_is_no_moment_is_refused(earmark, library, said):
    code, told = earmark("search", "dog", "--after", said)
    assert (code, library.calls) == (2, [])
    assert "write 2026-03-01" in told


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


NOT_TEXT = os.fsdecode(b"a\xffb")


@pytest.mark.parametrize(
    "command",
    [
        ["show", NOT_TEXT],
        ["rm", "--yes", "1", NOT_TEXT],
        ["list", "--folder", NOT_TEXT],
        ["list", "--label", NOT_TEXT],
        ["label", "2", NOT_TEXT],
        ["labels", "add", NOT_TEXT],
        ["search", NOT_TEXT],
        ["search", "dog", "--not", NOT_TEXT],
        ["export", "x", "--recipient", NOT_TEXT],
    ],
)
def test_words_that_are_no_text_are_refused(earmark, library, command):
    code, told = earmark(*command)
    assert (code, library.calls) == (2, [])
    assert "a\\xffb is not UTF-8 text" in told


def test_a_file_whose_name_is_no_text_is_the_library_s_to_tell(earmark, library):
    assert earmark("add", NOT_TEXT)[0] == 0
    assert library.calls[0][0] == "add"


@pytest.mark.parametrize(
    "option",
    [("--limit", "9" * 20), ("--min-score", "nan"), ("--at", "inf"), ("--at", "nan"), ("--min-score", "inf")],
)
def test_a_number_that_is_none_or_beyond_all_bounds_is_refused(earmark, library, option):
    assert earmark("search", "--like", "a.wav", *option)[0] == 2
    assert earmark("add", "a.wav", "--jobs", "9" * 20)[0] == 2
    assert library.calls == []


@pytest.mark.parametrize("option", [("--at", "nan"), ("--review", "--limit", "9" * 20)])
def test_so_it_is_where_clips_are_labelled(earmark, library, option):
    assert earmark("label", "1", "dog", *option)[0] == 2
    assert library.calls == []


def test_a_setting_beyond_all_bounds_means_the_most_there_can_be(earmark, library, monkeypatch):
    monkeypatch.setenv("EARMARK_LIMIT", "9" * 20)
    monkeypatch.setenv("EARMARK_JOBS", "9" * 20)
    earmark("search", "dog")
    earmark("add", "a.wav")
    assert (library.calls[0][1].limit, library.calls[1][2]) == (1_000_000, 1_024)
