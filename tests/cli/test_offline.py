"""No command reaches the network: the kernel kills it (and any decoder it starts) at the first socket."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_transcripts import EARMARK
from tests.house.sources import ROOT
from tests.support.sound import fill_folder

NO_SOCKETS = ROOT / "tests" / "support" / "no_sockets.py"
OTHER_COMMANDS = [
    ["list"], ["show", "1"], ["status"], ["labels"], ["labels", "add", "kettle"], ["labels", "remove", "kettle"],
    ["label", "1", "dog"], ["label", "--review"], ["teach", "bell", "sounds/tone.wav", "sounds/beeps.wav", "sounds/noise.wav"],
    ["model", "list"], ["model", "use", "base"], ["privacy"], ["participate", "--pause"], ["participate", "--resume"],
    ["leave", "--offline", "--yes"], ["export", "out.json", "--format", "json", "--yes"],
    ["passwd", "--new-key-file", "key2"],
]  # fmt: skip


ONE_AFTER_ANOTHER = (
    "import json, sys; from earmark_client.cli.main import main\n"
    "for command in json.loads(sys.argv[1]):\n"
    "    if code := main(command):\n"
    "        sys.exit(f'{command} ended with {code}')\n"
    "    print('DONE', *command, flush=True)\n"
)
"""Several commands in one process: the first socket ends it whichever opened it, and what was DONE says which did not."""


def run(kind, folder, *program):
    places = {"HOME": str(folder), "TMPDIR": str(folder), "EARMARK_HOME": "home", "EARMARK_KEY_FILE": "key"}
    environment = {"PATH": os.environ["PATH"], **places}
    command = [sys.executable, NO_SOCKETS, kind, *program]
    return subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("offline")
    fill_folder(folder / "sounds")
    done = run("inet", folder, EARMARK, "init")
    assert done.returncode == 0, done.stderr
    return folder


def run_commands(kind, folder, commands):
    """Run commands of `earmark` one after another, and hold that every one of them came to a good end."""
    done = run(kind, folder, sys.executable, "-c", ONE_AFTER_ANOTHER, json.dumps(commands))
    said = [line for line in done.stdout.splitlines() if line.startswith("DONE ")]
    assert (done.returncode, len(said)) == (0, len(commands)), f"{done.returncode} after {said}: {done.stderr}"


def test_adding_and_searching_open_no_socket_at_all(folder):
    run_commands("all", folder, [["add", "sounds"], ["search", "dog"], ["search", "--like", "sounds/tone.wav", "--at", "1"]])


def test_no_other_command_opens_a_network_socket(folder):
    with_the_new_key = [["--key-file", "key2", "rm", "1", "--yes"], ["--key-file", "key2", "erase", "--yes"]]
    run_commands("inet", folder, [["add", "sounds"], *OTHER_COMMANDS, *with_the_new_key])


def test_control_a_command_that_opens_a_socket_is_named(folder):
    """Any of several commands in one process: here the second, made to open a socket while it runs."""
    spoilt = "import socket; from earmark_client.cli import main as module; real = module.main\n"
    spoilt += "def main(command): command == ['--help'] and socket.socket(); return real(command)\n"
    program = spoilt + ONE_AFTER_ANOTHER.replace("from earmark_client.cli.main import main", "")
    done = run("inet", folder, sys.executable, "-c", program, json.dumps([["--version"], ["--help"], ["--version"]]))
    assert done.returncode == -signal.SIGSYS
    assert [line for line in done.stdout.splitlines() if line.startswith("DONE")] == ["DONE --version"]


@pytest.mark.parametrize(
    ("kind", "family", "code"),
    [
        ("all", "AF_UNIX", -signal.SIGSYS),
        ("all", "AF_INET", -signal.SIGSYS),
        ("inet", "AF_INET6", -signal.SIGSYS),
        ("inet", "AF_UNIX", 0),
    ],
)
def test_a_program_that_opens_a_socket_is_killed(tmp_path, kind, family, code):
    """Positive control: the kernel's filter does see a socket, also one of a child."""
    line = f"import socket; socket.socket(socket.{family})"
    assert run(kind, tmp_path, sys.executable, "-c", line).returncode == code
    child = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {line!r}]).returncode)"
    assert run(kind, tmp_path, sys.executable, "-c", child).returncode == (code % 256 if code else 0)


PLAIN = "import onnxruntime, time; onnxruntime.InferenceSession({graph!r}); time.sleep({seconds})"
OURS = (
    "import time; from pathlib import Path; from earmark_client.model.session import open_session;"
    " from earmark_client.model.bundle import Bundle; open_session(Bundle.load(Path({base!r})), 'encoder.onnx'); time.sleep({seconds})"
)
BASE = ROOT / "client" / "earmark_client" / "model" / "base"
UPLOAD_S = 15
"""ONNX Runtime's reports begin nine seconds after its start."""


def opened(folder, program, seconds=0):
    """Open a graph and keep the process for some seconds, without a single socket."""
    line = program.format(graph=str(BASE / "encoder.onnx"), base=str(BASE), seconds=seconds)
    return run("all", folder, sys.executable, "-c", line)


def kept(folder):
    """Everything below a folder but Python's own caches."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not re.search(r"__pycache__", str(path))}


def test_no_library_keeps_an_identity_of_this_device(tmp_path):
    assert opened(tmp_path, OURS).returncode == 0
    assert kept(tmp_path) == set()
    assert opened(tmp_path, PLAIN).returncode == 0
    assert [path for path in kept(tmp_path) if path.endswith("deviceid")], "the control: without our switch it is kept"


@pytest.mark.slow
def test_no_library_reports_when_a_process_lives_longer(tmp_path):
    assert opened(tmp_path, OURS, UPLOAD_S).returncode == 0
    assert opened(tmp_path, PLAIN, UPLOAD_S).returncode == -signal.SIGSYS, "the control: without our switch it opens a socket"


def test_tests_themselves_cannot_leave_this_machine():
    import socket

    with pytest.raises(PermissionError, match="tried to reach"), socket.socket() as out:
        out.connect(("192.0.2.1", 80))


def test_the_program_is_the_installed_one():
    assert Path(EARMARK).exists()
