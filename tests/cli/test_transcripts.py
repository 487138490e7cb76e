"""Every file in transcripts/ is a session at a shell, run by the real program in an empty folder with three sounds.

# a remark
$ earmark search dog        a command; `earmark`, or one of the few words in PLAIN that set the scene
0.81[..]a.wav               what stdout says; [..] stands for anything within a line
! nothing found             what stderr says
...                         any lines of the same stream, or none
? 20                        the exit code, when it isn't 0
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.house.sources import ROOT
from tests.support.sound import fill_folder

FOLDER = Path(__file__).parent / "transcripts"
WARM = ROOT / "tests" / "support" / "warm.py"
EARMARK = Path(sys.executable).with_name("earmark")


@dataclass
class Step:
    command: str
    stdout: list = field(default_factory=list)
    stderr: list = field(default_factory=list)
    code: int = 0


def steps_of(text):
    steps = []
    for line in text.splitlines():
        if line.startswith("$ "):
            steps.append(Step(line[2:]))
        elif line.startswith("! "):
            steps[-1].stderr.append(line[2:])
        elif line.startswith("? "):
            steps[-1].code = int(line[2:])
        elif line and not line.startswith("# "):
            steps[-1].stdout.append(line)
    return steps


def pattern_of(lines):
    """Return the regular expression of expected lines."""
    parts = [r"(?:.*\n)*" if line == "..." else r"[^\n]*".join(map(re.escape, line.split("[..]"))) + r"\n" for line in lines]
    return "".join(parts)


def scene(words, folder):
    """Carry out a command that only sets the scene: write, copy, move, delete, chmod."""
    name, *rest = words
    paths = [folder / word for word in rest]
    if name == "write":
        paths[0].write_text(" ".join(rest[1:]) + "\n")
        paths[0].chmod(0o600)
    elif name == "cp":
        (shutil.copytree if paths[0].is_dir() else shutil.copy)(*paths)
    elif name == "mv":
        paths[0].rename(paths[1])
    elif name == "rm":
        paths[0].unlink()
    elif name == "chmod":
        paths[1].chmod(int(rest[0], 8))
    elif name == "ln":
        paths[1].symlink_to(paths[0])
    elif name == "mkfifo":
        os.mkfifo(paths[0])
    elif name == "truncate":
        os.truncate(paths[1], int(rest[0]))
    elif name == "flip":
        content = bytearray(paths[0].read_bytes())
        content[int(rest[1])] ^= 1
        paths[0].write_bytes(content)
    else:
        raise ValueError(f"no such scene: {words}")


@contextmanager
def warm_earmark():
    """What runs a command like `started`, in a child of a process that has loaded the libraries already."""
    with subprocess.Popen([sys.executable, WARM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:

        def run(arguments, folder, environment):
            print(json.dumps([arguments, str(folder), environment]), file=server.stdin, flush=True)
            code, out, err = json.loads(server.stdout.readline())
            return subprocess.CompletedProcess(arguments, code, out, err)

        yield run
        server.stdin.close()


def started(arguments, folder, environment):
    """The real program, started for one command."""
    return subprocess.run(
        [EARMARK, *arguments], cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


def run_earmark(words, folder, run):
    variables = {}
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "EARMARK_HOME": "home", "EARMARK_KEY_FILE": "key"} | variables
    environment = {name: value for name, value in environment.items() if value}
    return run(words[1:], folder, environment)


NAMES = sorted(path.stem for path in FOLDER.glob("*.txt"))
SLOW = {"keys", "rights", "rollback", "teach"}
LONG = {"bad_sound", "damage", "first_search"}
"""Many commands, whose starts would take three quarters of the time: run by the warm program, and by the real one in test-all."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NAMES])
def test_transcript(name, tmp_path):
    with warm_earmark() if name in LONG else nullcontext(started) as run:
        follow(name, tmp_path, run)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LONG))
def test_a_long_transcript_by_the_real_program(name, tmp_path):
    follow(name, tmp_path, started)


def follow(name, tmp_path, run):
    """Hold every step of a transcript to what is done and said."""
    fill_folder(tmp_path / "sounds")
    for step in steps_of((FOLDER / f"{name}.txt").read_text(encoding="utf-8")):
        words = shlex.split(step.command)
        if "earmark" not in words[:3]:
            scene(words, tmp_path)
            continue
        done = run_earmark(words, tmp_path, run)
        said = f"$ {step.command}\n{done.stdout}{done.stderr}? {done.returncode}"
        assert done.returncode == step.code, said
        assert re.fullmatch(pattern_of(step.stdout), done.stdout), said
        assert re.fullmatch(pattern_of(step.stderr), done.stderr), said
