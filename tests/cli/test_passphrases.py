"""Where a passphrase comes from: a file, a descriptor, or a person at a terminal who never sees it."""

import contextlib
import os
import pty
import subprocess
import sys
import time

import pytest

from earmark_client.cli.session import LONGEST_PASSPHRASE_BYTES, ask_passphrase, read_passphrase
from earmark_shared.errors import SettingsError
from tests.cli.test_transcripts import EARMARK


@pytest.mark.parametrize(
    ("content", "passphrase"), [(b"a b\n", "a b"), (b"a b\r\nrest", "a b"), (b" x ", " x "), ("é\n".encode(), "é")]
)
def test_a_file_gives_its_first_line(tmp_path, content, passphrase):
    path = tmp_path / "p"
    path.write_bytes(content)
    assert read_passphrase(path, None) == passphrase


def test_a_descriptor_gives_its_first_line_and_stays_open():
    read_end, write_end = os.pipe()
    os.write(write_end, b"secret\n")
    os.close(write_end)
    assert read_passphrase(None, read_end) == "secret"
    os.close(read_end)


def test_without_a_place_there_is_none():
    assert read_passphrase(None, None) is None


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\n", b"x" * (LONGEST_PASSPHRASE_BYTES + 1)])
def test_what_is_no_passphrase_is_refused(tmp_path, content):
    path = tmp_path / "p"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="first line") as caught:
        read_passphrase(path, None)
    assert "xxxx" not in str(caught.value)


def test_a_missing_file_or_descriptor_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="can't be read"):
        read_passphrase(tmp_path / "none", None)
    with pytest.raises(SettingsError, match="descriptor 999"):
        read_passphrase(None, 999)


def test_without_a_terminal_nobody_is_asked(monkeypatch):
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: PTH123, SIM115
    with pytest.raises(SettingsError) as caught:
        ask_passphrase("Passphrase")
    assert "--passphrase-file" in caught.value.hint


def at_a_terminal(folder, arguments, answers):
    """Run `earmark` at a terminal, type each answer after a prompt (a line that ends in ': '), and return all that was shown."""
    ours, theirs = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "EARMARK_HOME": "home", "TERM": "xterm"}
    running = subprocess.Popen([EARMARK, *arguments], cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown, left = b"", list(answers)
    with contextlib.suppress(OSError):  # a terminal that nobody writes to any more
        while part := os.read(ours, 4096):
            shown += part
            if left and shown.rstrip(b" ").endswith(b":"):
                time.sleep(0.05)  # the prompt switches echo off before it reads
                os.write(ours, left.pop(0) + b"\n")
                shown += b"|"
    os.close(ours)
    return running.wait(), shown.decode()


def test_a_person_types_it_twice_and_never_sees_it(tmp_path):
    code, shown = at_a_terminal(tmp_path, ["init", "--passphrase"], [b"open sesame", b"open sesame"])
    assert (code, shown.count("|")) == (0, 2), shown
    code, listed = at_a_terminal(tmp_path, ["list"], [b"open sesame"])
    assert code == 0, listed
    code, refused = at_a_terminal(tmp_path, ["list"], [b"open barley"])
    assert code == 34
    assert "sesame" not in shown + listed + refused


def test_a_progress_bar_and_a_table_are_shown_at_a_terminal(tmp_path):
    from tests.support.sound import fill_folder

    fill_folder(tmp_path / "sounds")
    assert at_a_terminal(tmp_path, ["--key-file", "key", "init"], [])[0] == 0
    code, shown = at_a_terminal(tmp_path, ["--key-file", "key", "add", "sounds"], [])
    assert code == 0
    assert "x realtime" in shown
    assert "\033[1mclip" in at_a_terminal(tmp_path, ["--key-file", "key", "list"], [])[1]


def test_this_test_would_see_an_echoed_answer(tmp_path):
    """Positive control: a program that asks without hiding shows the answer."""
    ours, theirs = pty.openpty()
    running = subprocess.Popen([sys.executable, "-c", "input('say: ')"], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(ours, b"open sesame\n")
    shown = b""
    with contextlib.suppress(OSError):
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert running.wait() == 0
    assert b"sesame" in shown
