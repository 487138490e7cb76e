"""Programs that we start and that must not outlive us: Flower's SuperLink beside the server, its SuperNode beside a device.

child = start_child([program, "--flag"], environment=child_environment(), folder=folder, log=folder / "program.log")
stop_child(child)
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_S = 15.0
_WITH_US = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)
"""Ask the kernel for SIGTERM when our parent ends, however it ends, then become the program. (PR_SET_PDEATHSIG outlives exec; a
function run between fork and exec would not be safe in a process with threads.)"""


def program(name: str) -> str:
    """Return the path of a program that is installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


def start_child(
    command: Sequence[str], *, environment: Mapping[str, str], folder: Path, log: Path, keep: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a program in `folder` that writes to `log` (begun anew) and has the open files `keep`, by the same numbers.

    It ends when the thread that calls this does.
    """
    with log.open("wb") as output:
        log.chmod(0o600)
        return subprocess.Popen(  # noqa: S603  our own programs, named by us
            [sys.executable, "-c", _WITH_US, str(os.getpid()), *command],
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=keep,
        )


def stop_child(child: subprocess.Popen[bytes]) -> None:
    """End a program: ask, wait, and then don't ask."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
    child.wait()
