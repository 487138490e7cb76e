"""Parts of a benchmark that run in a process of their own, and the process tree's memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

POLL_S = 0.05


def status_mb(pid: int, field: str) -> float:
    """A number of kilobytes from /proc/PID/status, in MB of 10^6 bytes; 0 if the process has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(found[0]) * 1024 / 1e6 if found else 0.0


def peak_rss_mb() -> float:
    """The most memory this process has had resident, as the kernel counts it (VmHWM)."""
    return status_mb(os.getpid(), "VmHWM")


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        children = [
            Path(f"/proc/{pid}/task/{task.name}/children").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()
        ]
    except OSError:
        return [pid]
    return [pid, *(below for group in children for child in group for below in tree(int(child)))]


class MemoryWatch:
    """Watches a process and its children: the largest sum of the peaks (VmHWM) of those alive at one moment.

    Each process' peak is the kernel's own, so none is missed between two looks; that the peaks fell together is assumed, and pages
    that processes share count in each: the figure is an upper bound.
    """

    def __init__(self, pid: int) -> None:
        self.peak_mb = 0.0
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_S):
            self.peak_mb = max(self.peak_mb, sum(status_mb(pid, "VmHWM") for pid in tree(self._pid)))


def run_part(script: str, *arguments: object) -> tuple[dict[str, Any], float]:
    """Run a benchmark's own part in a fresh process: its last line as an object, and the peak memory (MB) of it and its children."""
    command = [sys.executable, script, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, MemoryWatch(process.pid) as watch:
        output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result, watch.peak_mb
