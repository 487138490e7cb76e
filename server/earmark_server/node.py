"""The SuperLink beside a server, and the SuperExec that runs our app for it: started, restarted when they end, told whose nodes to let in.

    with SuperLink(authority, registry, port=7445):
        run_rounds(authority, 7445, rounds=3, tell=print_line)

It listens on loopback only: its Control interface has no authentication of its own and could start any run. Devices on other
machines reach `/v1/fleet/` alone, through nginx (scripts/deploy).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from earmark_server.checkpoint import Checkpoint
from earmark_server.rounds import FOLDER, coordinator_lock
from earmark_server.running import News, Run
from earmark_shared.children import program, start_child, stop_child
from earmark_shared.errors import NetworkError, SettingsError, StoreError
from earmark_shared.files import make_private_folder, write_atomic
from earmark_shared.settings import child_environment

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path
    from types import TracebackType

    from earmark_server.authority import Authority
    from earmark_server.flower import Control
    from earmark_server.registry import Registry

HOST = "127.0.0.1"
SETTLE_S = 2.0
RESTART_S = 3.0
STEADY_S = 60.0
"""One that ran for so long had come up."""
PORT_MOST = 65_535
WATCH_S = 2.0
SILENT_S = 120.0
"""A SuperLink that is being started again, or has no time, may be silent for so long."""
FORGET_S = 10.0
STARTS_MOST = 6
SECRET, SECRET_SIZE = "superexec.secret", 32
LINK_FOLDER, DATABASE = "flower", "state.db"
"""Below the server's folder: the SuperLink's own, and in it what nodes and runs have for each other."""


class SuperLink:
    """Flower's server process, kept running as long as this object is open."""

    def __init__(
        self, authority: Authority, registry: Registry, *, port: int, tell: Callable[[str], None] = lambda _line: None
    ) -> None:
        """Get ready to start it on loopback; `tell` hears when it ended though nobody stopped it.

        Raises:
            SettingsError: there is no such port.
        """
        if not 1 <= port <= PORT_MOST:
            raise SettingsError(f"Flower's port can't be {port}", hint=f"say another, at most {PORT_MOST}: --flower-port")
        self._authority, self._registry, self._port, self._tell = authority, registry, port, tell
        self._home = authority.places.folder / LINK_FOLDER
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="superlink", daemon=True)

    def __enter__(self) -> Self:
        """Start it, in a thread of its own; StoreError if its folder can't be written."""
        if not self._home.exists():
            make_private_folder(self._home)
        write_atomic(self._home / SECRET, os.urandom(SECRET_SIZE))
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop it."""
        self._stop.set()
        self._thread.join()

    def _keep(self) -> None:
        """Start it again whenever it ends; of many ends in a row each is told whose number is a power of two."""
        ends = 0
        while not self._stop.is_set():
            began_s = time.monotonic()
            why = self._run_once()
            if self._stop.is_set():
                return
            ends = 1 if time.monotonic() - began_s > STEADY_S else ends + 1
            if ends & (ends - 1) == 0:
                often = f", {ends} times in a row" if ends > 1 else ""
                self._tell(f"the SuperLink ended{often}: {why}; without it no round runs. It is started again.")
            self._stop.wait(RESTART_S)

    def _run_once(self) -> str:
        """Run it until it ends or is to end; return why it ended."""
        try:
            link = self._start(self._link(), "superlink.log")
            try:
                self._watch(link)
            finally:
                stop_child(link)
        except Exception as error:  # noqa: BLE001  whatever it is: it is told, and tried again
            return f"{type(error).__name__}: {error}"
        return f"exit code {link.returncode}, see {self._home / 'superlink.log'}"

    def _watch(self, link: subprocess.Popen[bytes]) -> None:
        """Settle nodes and keep a SuperExec running until the SuperLink ends or is to end; it may take a while to answer."""
        runner, is_settled = self._start(self._runner(), "superexec.log"), False
        try:
            while link.poll() is None and not self._stop.wait(SETTLE_S):
                if runner.poll() is not None:
                    runner = self._start(self._runner(), "superexec.log")
                with contextlib.suppress(NetworkError, StoreError):
                    if not is_settled or self._registry.unsettled_nodes():
                        self._settle()
                        is_settled = True
        finally:
            stop_child(runner)

    def _start(self, command: list[str], log: str) -> subprocess.Popen[bytes]:
        environment, folder = child_environment(FLWR_HOME=str(self._home)), self._authority.places.folder
        return start_child(command, environment=environment, folder=folder, log=self._home / log)

    def _settle(self) -> None:
        with open_control(self._authority, self._port) as control:
            settle_nodes(control, self._registry)

    def _link(self) -> list[str]:
        tls = self._authority.places.tls
        return [
            program("flower-superlink"),
            *("--ssl-ca-certfile", str(tls / "ca.pem")),
            *("--ssl-certfile", str(tls / "server.pem")),
            *("--ssl-keyfile", str(tls / "server.key")),
            *("--host", HOST, "--port", str(self._port)),
            *("--database", str(self._home / DATABASE)),
            *("--isolation", "process", "--superexec-auth-secret-file", str(self._home / SECRET)),
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
        ]

    def _runner(self) -> list[str]:
        """Flower's SuperExec, which starts our app: a SuperLink starts one itself, but not again when it ends."""
        return [
            program("flower-superexec"),
            *("--root-certificates", str(self._authority.places.tls / "ca.pem")),
            *("--runtime-api-address", f"{HOST}:{self._port}"),
            *("--superexec-auth-secret-file", str(self._home / SECRET)),
        ]


def settle_nodes(control: Control, registry: Registry) -> None:
    """Let the nodes of enrolled devices in, and those of revoked ones out; NetworkError if the SuperLink does not answer.

    What the SuperLink knows counts, not what the registry remembers of it: its database may be new, or from a backup.
    """
    known = control.node_ids()
    for device in registry.devices():
        is_in = device.revoked_s is None
        if is_in and device.node_key not in known:
            control.register(device.node_key)
        if not is_in and device.node_key in known:
            control.unregister(known[device.node_key])
        if device.is_node != is_in:
            registry.set_node(device.alias, is_node=is_in)


def open_control(authority: Authority, port: int) -> Control:
    """Open the SuperLink's Control interface; use it in a `with` block."""
    from earmark_server.flower import Control  # noqa: PLC0415  flwr takes a second to import

    return Control(f"{HOST}:{port}", authority.tls.pem)


def run_rounds(
    authority: Authority, port: int, *, rounds: int, tell: Callable[[str], None], warn: Callable[[str], None] = lambda _line: None
) -> None:
    """Have the SuperLink run so many rounds, and start again from the checkpoint whenever a run dies.

    `tell` hears what became of each round, `warn` what a run died of.

    Raises:
        NetworkError: there is no SuperLink, or none for `SILENT_S`; or runs died again and again, or twice of the same error.
    """
    news = News(Checkpoint(authority.places.folder / FOLDER), tell)
    told = news.told
    target, heard_s = told + rounds, time.monotonic()
    run, starts, started = Run(coordinator_lock(authority.places.folder)), 0, told
    while told < target:
        try:
            with open_control(authority, port) as control:
                if not run.is_alive(control) and not run.lock.is_held():
                    told = news.tell()
                    starts = 0 if told > started else starts
                    if told >= target or run.died_as_before(control, told, warn) or starts == STARTS_MOST:
                        break
                    run.start(control, target)
                    starts, started = starts + 1, told
            heard_s = time.monotonic()
        except NetworkError:
            if time.monotonic() - heard_s > SILENT_S:
                raise
        time.sleep(WATCH_S)
        told, before = news.tell(), told
        if told > before:
            forget_messages(authority.places.folder / LINK_FOLDER / DATABASE)
    if told < target:
        raise run.given_up


def forget_messages(database: Path) -> bool:
    """Take from the disk what Flower has deleted: SQLite would keep the bytes of masked updates and shares until it needs their place.

    Returns:
        Whether it could be done; the SuperLink may be at work, and then it is for the next round to do.
    """
    if not database.exists():
        return False
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=FORGET_S)) as connection:
            connection.execute("VACUUM")
            is_busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            return not is_busy
    except sqlite3.OperationalError:
        return False
