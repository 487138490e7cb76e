"""The parent's end of the decoder's process: start it, hand it a file, hear it out within its allowance, end it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from earmark_client.audio import worker

_LARGEST_MESSAGE = 1 << 20
_POLL_S = 0.25
_START = "import sys; sys.path += sys.argv[2:]; from earmark_client.audio import worker; worker.main(int(sys.argv[1]))"
_PACKAGES = ("numpy", "soundfile", "soxr", "cffi")
"""What the worker imports beside Earmark and the standard library; cffi is what soundfile stands on."""
_ENVIRONMENT = {"HOME": "/", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
"""Without HOME, Python looks its owner up in the system's accounts, and for that the C library opens a socket."""


class WorkerGoneError(Exception):
    """The worker ended or spoke nonsense."""


class SlowWorkerError(Exception):
    """The worker used more processor time than its file is allowed."""


class SilentWorkerError(Exception):
    """The worker said nothing for too long."""


class WorkerProcess:
    """One worker at a time, replaced after every fault."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._is_busy = False
        self._awaits_word = False
        self._used_before_s = 0.0
        self._checked_s = 0.0

    @property
    def pid(self) -> int | None:
        """The worker's process id, None if there is none."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Start a worker unless one is there; it imports its libraries while the caller goes on."""
        if self._child is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self._child = launch(theirs)
        self._channel = ours

    def stop(self) -> None:
        """End the worker at once, whatever it is doing."""
        if self._channel is not None:
            self._channel.close()
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        self._child = self._channel = None
        self._is_busy = self._awaits_word = False

    def start_file(self, descriptor: int) -> None:
        """Hand over an open file; the next message is its header."""
        if self._is_busy or (self._child is not None and self._child.poll() is not None):
            self.stop()
        self.start()
        self._is_busy = True
        self._used_before_s = self._processor_s()
        self._checked_s = time.monotonic()
        try:
            channel = self._connected()
            channel.settimeout(_POLL_S)
            socket.send_fds(channel, [worker.DECODE], [descriptor])
        except OSError as gone:
            raise WorkerGoneError from gone

    def go_on(self) -> None:
        """Ask for the sound that belongs to the header."""
        self._awaits_word = False
        self._tell(worker.GO)

    def finish_file(self) -> None:
        """The file's last message has come."""
        self._is_busy = False

    def abandon_file(self) -> None:
        """Leave the file, wherever it was left; a worker amid its sound ends, since it may be harmed, and the next file gets a new one."""
        if self._awaits_word:
            self._awaits_word = self._is_busy = False
            with suppress(WorkerGoneError):
                self._tell(worker.NEXT)
        if self._is_busy:
            self.stop()

    def receive(self, *, allowance_s: float, silent_s: float) -> tuple[bytes, bytearray]:
        """The next message's kind and payload.

        Raises:
            SlowWorkerError: the file has used more than `allowance_s` of processor time.
            SilentWorkerError: nothing came for `silent_s`.
            WorkerGoneError: the worker ended, or its message has no sensible length.
        """
        header = self._receive_exactly(worker.HEADER.size, allowance_s, silent_s)
        kind, length = worker.HEADER.unpack(header)
        if length > _LARGEST_MESSAGE or (kind == worker.BLOCK and length % 4):
            raise WorkerGoneError
        self._awaits_word = kind == worker.INFORM
        return kind, self._receive_exactly(length, allowance_s, silent_s)

    def _receive_exactly(self, length: int, allowance_s: float, silent_s: float) -> bytearray:
        channel = self._connected()
        received = bytearray(length)
        view = memoryview(received)
        heard_s = time.monotonic()
        while view:
            try:
                count = channel.recv_into(view)
            except TimeoutError:
                count = -1
            except OSError as gone:
                raise WorkerGoneError from gone
            if count == 0:
                raise WorkerGoneError
            if count > 0:
                view = view[count:]
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > silent_s:
                raise SilentWorkerError
            self._check_allowance(allowance_s)
        return received

    def _check_allowance(self, allowance_s: float) -> None:
        now_s = time.monotonic()
        if now_s - self._checked_s < _POLL_S:
            return
        self._checked_s = now_s
        if self._processor_s() - self._used_before_s > allowance_s:
            raise SlowWorkerError

    def _processor_s(self) -> float:
        """Processor time the worker has used so far, by the kernel's count; 0 where the system doesn't tell."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as status:  # noqa: PTH123  pathlib takes three times as long
                fields = status.read().rpartition(b")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _tell(self, word: bytes) -> None:
        try:
            self._connected().sendall(word)
        except OSError as gone:
            raise WorkerGoneError from gone

    def _connected(self) -> socket.socket:
        if self._channel is None:
            raise WorkerGoneError
        return self._channel


def launch(channel: socket.socket) -> subprocess.Popen[bytes]:
    """Start a worker that inherits one end of a socket and nothing else: no environment, no standard streams."""
    # Without `site`, which would read every package's startup file, it finds just what it is told of.
    folders = dict.fromkeys((str(Path(worker.__file__).parents[2]), *(_folder_of(package) for package in _PACKAGES)))
    return subprocess.Popen(  # noqa: S603  our own interpreter, no shell, no outside argument
        [sys.executable, "-I", "-S", "-c", _START, str(channel.fileno()), *folders],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(channel.fileno(),),
        env=_ENVIRONMENT,
        cwd="/",
    )


def _folder_of(package: str) -> str:
    """Where a package lies that the worker imports, without importing it here."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(package)
    origin = Path(spec.origin)
    return str(origin.parents[1] if spec.submodule_search_locations else origin.parent)
