"""What the commands write where: tables, lines, objects, notes, problems and exit codes."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earmark_client.audio.opening import display_name
from earmark_client.cli import library_cmds
from earmark_client.cli import main as program
from earmark_client.cli.output import Output, clock, progress_line, visible
from earmark_client.records import Answer
from earmark_server.cli import main as operate
from earmark_shared.errors import DamagedAudioError, DiskFullError, HomeInUseError
from tests.cli.fake import CLIP, HIT, damaged


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def earmark(library, capsys):
    def run(*arguments):
        code = program.main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def terminal(monkeypatch):
    """Both streams are a terminal."""
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(program, "standard_output", lambda *, color=True: Output(out, err, color=color))
    return out, err


def test_hits_are_tab_separated_lines_when_nobody_watches(earmark):
    assert earmark("search", "dog") == (0, "0.81\t7\t1:01.4\t1:03.0\tdog, bark\t/music/a.wav\n", "")


@pytest.mark.parametrize(("can", "told"), [(True, library_cmds.TAKEN_OVER), (False, library_cmds.OUTDATED)])
def test_an_older_model_s_answer_comes_first_and_then_what_becomes_of_it(earmark, library, can, told):
    library.is_outdated, library.can_catch_up = True, can
    code, out, err = earmark("search", "dog")
    assert (code, out.count("\n"), library.calls[-1]) == (0, 1, ("catch up",))
    assert told in err


@pytest.mark.parametrize("fault", [DiskFullError(), HomeInUseError()])
def test_a_full_disk_or_another_writer_puts_the_newer_model_off(earmark, library, fault):
    library.is_outdated, library.can_catch_up, library.raises = True, True, fault
    code, out, err = earmark("search", "dog")
    assert (code, out.count("\n")) == (0, 1)
    assert library_cmds.OUTDATED in err


def test_hits_are_a_table_on_a_terminal(earmark, terminal):
    earmark("search", "dog")
    heading, row = terminal[0].getvalue().splitlines()
    assert heading == "\033[1mscore  clip  start   end     labels     file\033[0m"
    assert row == "0.81   7     1:01.4  1:03.0  dog, bark  /music/a.wav"


def test_no_color_means_no_escape_sequences(earmark, terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    earmark("search", "dog")
    assert "\033" not in terminal[0].getvalue()


def test_json_hits_have_stable_keys(earmark):
    _, out, _ = earmark("search", "dog", "--json")
    assert json.loads(out) == {
        "score": 0.8123, "clip": 7, "segment": 91, "path": "/music/a.wav", "start_s": 61.44, "end_s": 63.0, "peak_s": 61.9,
        "labels": [{"name": "dog", "score": 0.9}, {"name": "bark", "score": 0.5}],
        "why": [{"source": "text", "detail": "dog barking ~ Bark", "score": 0.7}],
    }  # fmt: skip


def test_why_says_where_the_evidence_came_from(earmark):
    _, out, _ = earmark("search", "dog", "--why")
    assert out.splitlines()[1] == "  why: text 0.70  dog barking ~ Bark"


def test_nothing_found_is_said_on_stderr_and_is_no_failure(earmark, library):
    library.answer = Answer((), HIT, "v")
    assert earmark("search", "unicorn") == (0, "", "nothing found (--nearest names the nearest miss)\n")
    assert earmark("search", "unicorn", "--nearest") == (
        0,
        "",
        "nothing found; nearest miss: score 0.81 at 1:01.4-1:03.0 in /music/a.wav\n",
    )
    library.answer = Answer((), None, "v")
    assert earmark("search", "unicorn", "--json", "--nearest") == (0, "", "nothing found, not even nearly\n")


def test_every_filter_reaches_the_query(earmark, library, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    earmark(
        "search", "rain", "--like", "a.wav", "--at", "2.5", "--not", "speech", "--not", "wind", "--label", "water",
        "--folder", "in", "--after", "2026-03-01", "--before", "2026-03-02T12:00:00", "--limit", "4", "--min-score", "0.2",
    )  # fmt: skip
    query = library.calls[0][1]
    assert (query.text, str(query.like), query.at_s, query.exclude) == ("rain", "a.wav", 2.5, ("speech", "wind"))
    assert (query.label, query.folder, query.limit, query.min_score) == ("water", str(tmp_path / "in"), 4, 0.2)
    assert query.before_s - query.after_s == 36 * 3600


def test_a_label_alone_is_a_question(earmark, library):
    earmark("search", "--label", "dog")
    assert (library.calls[0][1].text, library.calls[0][1].label) == ("dog", "dog")


def test_a_question_needs_something_to_look_for(earmark):
    assert earmark("search") == (
        2,
        "",
        "earmark: say what to look for: words, or --like FILE\nhint: earmark search --help shows what can be said\n",
    )


def test_add_names_each_problem_with_reason_and_remedy_and_ends_with_20(earmark, library):
    library.problems = (damaged("/x/a.wav"), damaged("/x/b.wav"))
    code, out, err = earmark("add", "/x")
    assert (code, out) == (20, "")
    assert err.splitlines() == [
        "earmark: /x/a.wav: the file ends early",
        "hint: copy it again",
        "earmark: /x/b.wav: the file ends early",
        "hint: copy it again",
        "added 2 clips, 1 known already",
    ]


def test_add_tells_what_it_passed_over_and_what_nobody_will_find(earmark, library):
    library.silent, library.passed_over = 1, 3
    code, _, err = earmark("add", "/x")
    assert code == 0
    assert err.splitlines() == [
        "3 sound files of other formats passed over; Earmark reads WAV, FLAC, Ogg Vorbis or Opus, MP3 or AIFF",
        "1 clip with nothing loud enough to hear: no search finds what is so quiet",
        "added 2 clips, 1 known already",
    ]
    told = json.loads(earmark("add", "/x", "--json")[1])
    assert (told["added"], told["silent"], told["passed_over"]) == (2, 1, 3)


@pytest.mark.parametrize("path", ["/x/a\nb.wav", os.fsdecode(b"/x/caf\xe9.wav"), "/x/\u202ea.wav"])
def test_an_odd_name_is_told_once(earmark, library, path):
    shown = display_name(path)
    library.problems = ((path, DamagedAudioError(f"{shown}: the file ends early")), (path, HomeInUseError("in use")))
    told = earmark("add", "/x")[2].splitlines()
    assert told[:2] == [f"earmark: {shown}: the file ends early", f"earmark: {shown}: in use"]


def test_a_path_reaches_the_library_whole(earmark, library, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    earmark("add", "~old.wav", "../other/x.wav")
    assert library.calls[0][1] == [tmp_path / "~old.wav", tmp_path.parent / "other" / "x.wav"]
    earmark("list", "--folder", "../other")
    assert library.calls[1] == ("clips", str(tmp_path.parent / "other"), None)


def test_a_progress_bar_is_drawn_only_on_a_terminal(earmark, terminal):
    earmark("add", "/x")
    assert "[############............] 1/2  120x realtime  0:00.5 left  /x/a.wav" in terminal[1].getvalue()


def test_no_progress_bar_without_a_terminal(earmark):
    assert "realtime" not in earmark("add", "/x")[2]


def test_ctrl_c_ends_with_130_and_says_what_is_kept(earmark, library):
    library.raises = KeyboardInterrupt()
    code, out, err = earmark("add", "/x")
    assert (code, out) == (130, "")
    assert "what was finished is kept" in err
    assert "done" not in err


def test_an_interrupted_add_says_how_far_it_came(earmark, library, monkeypatch):
    def add(_paths, *, on_progress, jobs):
        on_progress(SimpleNamespace(done_files=78, total_files=3000, sound_s=78.0, elapsed_s=5.0, current="/x/a.wav"))
        raise KeyboardInterrupt

    monkeypatch.setattr(library, "add", add)
    code, _, err = earmark("add", "/x")
    assert (code, err.splitlines()[0]) == (130, "at least 78 of 3000 files done")


WAIT = """
import signal, time
from types import SimpleNamespace
import click
from earmark_client.cli import main as program

@program.cli.command()
def wait():
    try:
        with program.standard_output().progress() as draw:
            draw(SimpleNamespace(done_files=7, total_files=9, sound_s=1.0, elapsed_s=1.0, current="x"))
            print("waiting", flush=True)
            time.sleep(30)
    finally:
        print("tidied", signal.getsignal(signal.SIGTERM) == signal.SIG_IGN, flush=True)

program.main()
"""


def ended_by(signum, ignored, tmp_path):
    """Let a command wait, send it a signal, and return how it ended, what it answered, and the lines it told."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    code = WAIT if ignored is None else f"import signal; signal.signal({int(ignored)}, signal.SIG_IGN); {WAIT}"
    command = [sys.executable, "-c", code, "wait"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signum)
        if signum == ignored:
            process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    return process.returncode, out, err.splitlines()


@pytest.mark.parametrize(
    ("signum", "ignored", "code"),
    [
        (signal.SIGTERM, None, 143),
        pytest.param(signal.SIGHUP, None, 129, id="its window is closed"),
        pytest.param(signal.SIGHUP, signal.SIGHUP, 143, id="started by nohup"),
    ],
)
def test_what_ends_a_session_ends_a_command_like_ctrl_c(signum, ignored, code, tmp_path):
    ended, out, err = ended_by(signum, ignored, tmp_path)
    assert (ended, out) == (code, "tidied True\n")
    assert {"at least 7 of 9 files done", "earmark: stopped; what was finished is kept"} < set(err)


@pytest.mark.parametrize("program_name", ["earmark_client.cli.main", "earmark_server.cli"])
def test_help_that_nobody_reads_to_its_end_is_no_failure(program_name, tmp_path):
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-c", f"import sys; from {program_name} import main; sys.exit(main(['--help']))"]
        ended = subprocess.run(command, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("command", [["rm", "7"], ["erase"], ["export", "f.json", "--format", "json"]])
def test_what_destroys_or_reveals_asks(earmark, library, command, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = earmark(*command)
    assert (code, library.calls) == (2, [])
    assert "--yes" in err
    assert earmark(*command, "--yes")[0] == 0
    assert len(library.calls) == 1


def test_a_no_means_no(earmark, library, monkeypatch):
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert earmark("erase")[0] == 1
    assert library.calls == []


def test_list_show_status_and_labels_speak_json(earmark):
    listed = json.loads(earmark("list", "--json")[1])
    assert (listed["clip"], listed["recorded_at"]) == (7, "2020-09-13T12:26:40+00:00")
    shown = [json.loads(line) for line in earmark("show", "7", "--json")[1].splitlines()]
    assert shown[1] == {"clip": 7, "start_s": 0.0, "end_s": 0.975, "labels": [{"name": "dog", "score": 0.9}]}
    assert json.loads(earmark("status", "--json")[1]) == {"clips": 1, "model_version": "yes-123", "size_bytes": None}
    assert json.loads(earmark("labels", "--json")[1]) == {"name": "dog", "score": 1.0}


@pytest.mark.parametrize(("recorded_at_s", "shown"), [(1e12, "9999-12-31"), (-1e12, "0001-01-01"), (0.5, "1970-01-01")])
def test_any_moment_a_file_can_bear_is_shown(earmark, library, recorded_at_s, shown):
    library.clips = lambda **_: [replace(CLIP, recorded_at_s=recorded_at_s)]
    assert earmark("list")[1].split("\t")[2] == shown


def test_show_says_what_happens_when(earmark):
    assert earmark("show", "7")[1].splitlines()[1:] == ["0:00.0\t0:01.0\tdog 0.90", "1:01:01.0\t1:01:02.0\t"]


def test_a_yes_and_a_no_are_kept(earmark, library):
    earmark("label", "7", "dog")
    earmark("label", "7", "--not", "cat", "--at", "12.5")
    assert library.calls == [("label", "7", "dog", True, None), ("label", "7", "cat", False, 12.5)]
    assert earmark("label", "7")[0] == 2
    assert earmark("label", "7", "a", "--not", "b")[0] == 2


def test_an_example_named_from_a_folder_within_is_told_by_its_whole_path(earmark, library, monkeypatch, tmp_path):
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    library.teach = lambda name, files: library.calls.append((name, files)) or 1
    earmark("teach", "bell", "../ring.wav")
    assert library.calls == [("bell", [tmp_path / "ring.wav"])]


def test_review_asks_about_the_least_certain_first(earmark, library, monkeypatch):
    monkeypatch.setattr("sys.stdin", Terminal("y\nq\n"))
    earmark("label", "--review", "--limit", "2")
    assert library.calls == [("review", 2), ("label hit", 91, "dog", True)]


def test_the_end_of_the_input_ends_a_review_and_keeps_what_was_answered(earmark, library, monkeypatch):
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    code, _, err = earmark("label", "--review")
    assert (code, err.splitlines()[-1]) == (0, "1 of 2 answered")
    assert library.calls[1:] == [("label hit", 91, "dog", True)]


def test_an_interrupted_review_says_that_what_was_answered_is_kept(earmark, monkeypatch):
    def interrupt(_prompt=""):
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("click.termui.visible_prompt_func", interrupt)
    code, _, err = earmark("label", "--review")
    assert code == program.INTERRUPTED
    assert "what was finished is kept" in err


def test_a_file_name_cannot_move_the_cursor(earmark, library):
    library.answer = Answer((replace(HIT, path="/x/\033[2Jdeleted\n.wav"),), None, "v")
    _, out, _ = earmark("search", "dog")
    assert out.endswith("/x/\\x1b[2Jdeleted\\n.wav\n")


@given(st.text())
def test_whatever_a_name_holds_what_is_shown_is_printable(name):
    assert visible(name).isprintable()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00.0"), (7.46, "0:07.5"), (59.96, "1:00.0"), (3723.04, "1:02:03.0")])
def test_moments_read_like_a_clock(seconds, text):
    assert clock(seconds) == text


def test_a_progress_bar_knows_nothing_before_the_start():
    line = progress_line(SimpleNamespace(done_files=0, total_files=0, sound_s=0.0, elapsed_s=0.0, current=""))
    assert line == "[########################] 0/0  0:00.0 left"


def test_a_reader_that_goes_away_is_no_failure(library, monkeypatch, tmp_path):
    class Gone(io.StringIO):
        def write(self, _):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        def fileno(self):
            return (tmp_path / "sink").open("w").fileno()

    monkeypatch.setattr("sys.stdout", Gone())
    assert program.main(["search", "dog"]) == 0


@pytest.mark.parametrize("when", ["write", "flush"])
@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 37), (errno.EIO, 30), (errno.EBADF, 30)])
def test_an_answer_that_cannot_be_written_is_a_failure_that_is_told(library, monkeypatch, capsys, when, number, code):
    class Full(io.StringIO):
        def refuse(self, *_):
            raise OSError(number, os.strerror(number))

    setattr(Full, when, Full.refuse)
    monkeypatch.setattr("sys.stdout", Full())
    assert program.main(["search", "dog", "--json"]) == code
    assert capsys.readouterr().err.startswith(f"earmark: the answer can't be written: {os.strerror(number)}\nhint: ")


@pytest.mark.parametrize(
    ("run", "name"), [(program.main, "earmark"), (operate, "earmark-server")], ids=["earmark", "earmark-server"]
)
@pytest.mark.parametrize("asked", [["--help"], ["--version"]], ids=["help", "version"])
def test_help_that_cannot_be_written_is_told_as_an_answer_is(monkeypatch, capsys, run, name, asked):
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert run(asked) == 37
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"{name}: the answer can't be written: {os.strerror(errno.ENOSPC)}", "hint: look at where its output goes"]


def test_control_what_else_goes_wrong_is_not_taken_for_that(library):
    library.raises = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        program.main(["add", "/x"])


def test_a_note_that_cannot_be_written_changes_nothing(library, monkeypatch, capsys):
    class Full(io.StringIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    library.answer = Answer((), None, "v")
    assert program.main(["search", "unicorn"]) == 0
    assert program.main(["search"]) == 2


def test_a_closed_stream_is_no_failure_and_no_file_takes_its_place(tmp_path):
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "EARMARK_HOME": "home", "EARMARK_KEY_FILE": "key"}
    look = "import os, sys; from earmark_client.cli.main import main; code = main(sys.argv[1:]); "
    look += "print(code, *(os.path.realpath(f'/proc/self/fd/{n}') for n in range(3)), file=open('seen', 'w'))"

    def run(command, *closed):
        shell = f'"{sys.executable}" -c "{look}" {command} {" ".join(closed)}'
        (tmp_path / "seen").unlink(missing_ok=True)
        subprocess.run(["sh", "-c", shell], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True)
        return (tmp_path / "seen").read_text().split()

    assert run("init")[0] == "0"
    assert run("list", "<&-", ">&-", "2>&-") == ["0"] + ["/dev/null"] * 3
    assert run("show 7", "2>&-")[::3] == ["39", "/dev/null"]
