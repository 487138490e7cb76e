"""One command keeps a device in its federation: a SuperNode beside us, and the executor in this very process.

    take_part(home, secret, model, superlink=Address("127.0.0.1", 7445), is_stopped=stop.is_set, tell=print_line)

A SuperNode that was lost counts as connected for up to a minute, and its key is refused for so long. So this device first takes its
place back, by the number that the SuperLink knows its node by; where that fails, the node is started again and again for as long as
it takes, at least a minute's worth, a little later each time. The node gets its private key as a file that is on no disk.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from earmark_client.federation import enrol
from earmark_client.federation.device import open_participant
from earmark_client.federation.identity import NODE_NUMBER, node_key_file
from earmark_client.updating import models_folder
from earmark_shared.children import start_child, stop_child
from earmark_shared.errors import NetworkError
from earmark_shared.files import FileLock, make_private_folder, write_private
from earmark_shared.settings import child_environment

if TYPE_CHECKING:
    import subprocess

    from earmark_client.describe import Model
    from earmark_client.federation.executor import Executor, Runtime
    from earmark_client.federation.identity import Membership
    from earmark_client.federation.participant import Participant
    from earmark_client.store.database import Database
    from earmark_client.store.home import Home
    from earmark_client.store.keys import Secret
    from earmark_shared.wire.channel import Address

POLL_S = 0.5
PATIENCE_S = (5.0, 10.0, 15.0, 20.0, 30.0, 60.0)
"""Waits between starts of a node; the last one again and again."""
STEADY_S = 120.0
"""A node that ran so long begins with the short waits again."""
LOOPBACK, LOCK = "127.0.0.1", "participate.lock"
NICE = 10
"""Training waits for a person's own work."""


def take_part(
    home: Home,
    secret: Secret,
    model: Model,
    *,
    superlink: Address,
    is_stopped: Callable[[], bool],
    tell: Callable[[str], None],
) -> None:
    """Take part in rounds until `is_stopped`; what the device did is told in lines for its person.

    Raises:
        AdmissionError: the library is in no federation. LedgerError: what was spent can't be known.
        HomeInUseError: another process takes part for this library.
    """
    participant = open_participant(home, secret, model)
    membership, failures = enrol.joined(home.database), 0
    with closing(participant), _one_at_a_time(home):
        while not is_stopped():
            began_s = time.monotonic()
            _take_back_place(home.database, membership, superlink)
            with running_node(membership, superlink) as (runtime, node):
                work(participant, _executor(runtime, participant, node), node, is_stopped=is_stopped, tell=tell)
            if is_stopped():
                return
            failures = 0 if time.monotonic() - began_s > STEADY_S else failures
            wait_s = PATIENCE_S[min(failures, len(PATIENCE_S) - 1)]
            failures += 1
            tell(f"the node ended; starting it again in {wait_s:g} s")
            _wait(wait_s, is_stopped)


def work(
    participant: Participant,
    executor: Executor,
    node: Node,
    *,
    is_stopped: Callable[[], bool],
    tell: Callable[[str], None],
) -> None:
    """Do what the SuperNode is given, until it ends, has lost a message or an answer, or we are to stop."""
    from earmark_client.federation.executor import AnswerLostError

    os.setpriority(os.PRIO_PROCESS, 0, NICE)  # of this thread alone: heartbeats and the node go on as they are
    while node.poll() is None and not node.is_given_up() and not is_stopped():
        try:
            had_task = executor.step()
        except AnswerLostError:
            return
        except NetworkError:  # it is still starting, or about to end
            had_task = False
        if had_task and participant.error is not None:
            tell(f"left the round: {participant.error}")
        participant.tick(int(time.time()))
        if not had_task:
            time.sleep(POLL_S)


class Node:
    """A running SuperNode, and what its log says of it.

    A run that ends while the node fetches a message leaves the node with a task, and perhaps with an answer, that belong to nothing. It
    would send that answer in the place of the next one, and each answer one message too late from then on: so it is started anew.
    """

    GIVEN_UP = b"Ignoring message"

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        """Read `log` from its beginning."""
        self._process, self._log, self._read = process, log, 0
        self._is_given_up = False

    @property
    def returncode(self) -> int | None:
        """How it ended, when `poll` noticed that it has."""
        return self._process.returncode

    def poll(self) -> int | None:
        """Return None as long as it runs, then how it ended."""
        return self._process.poll()

    def is_given_up(self) -> bool:
        """Whether it dropped a message that it had announced."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            new = log.read()
        self._read += new.rfind(b"\n") + 1
        self._is_given_up |= self.GIVEN_UP in new
        return self._is_given_up


@contextmanager
def running_node(membership: Membership, superlink: Address) -> Iterator[tuple[Runtime, Node]]:
    """Run a SuperNode for the block: TLS to the SuperLink, the device's node key, and nothing that it could execute."""
    from earmark_client.federation.direct import supernode_command
    from earmark_client.federation.executor import Runtime

    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="earmark-supernode-") as place, node_key_file(membership.keys) as key:
        folder = Path(place)
        make_private_folder(folder)
        runtime = Runtime(f"{LOOPBACK}:{port}", os.urandom(32))
        write_private(folder / "secret", runtime.secret)
        write_private(folder / "ca.pem", membership.ca_pem)
        command = [
            *supernode_command(),
            *("--root-certificates", str(folder / "ca.pem")),
            *("--superlink", str(superlink)),
            *("--auth-supernode-private-key", f"/dev/fd/{key}"),
            *("--host", LOOPBACK, "--port", str(port)),
            *("--isolation", "process", "--superexec-auth-secret-file", str(folder / "secret")),
        ]
        environment = child_environment(FLWR_HOME=str(folder))
        node = start_child(command, environment=environment, folder=folder, log=folder / "supernode.log", keep=(key,))
        try:
            yield runtime, Node(node, folder / "supernode.log")
        finally:
            stop_child(node)


def _one_at_a_time(home: Home) -> FileLock:
    """Return the lock that keeps a second process from taking our place; it lies among what `earmark erase` removes whole."""
    folder = models_folder(home)
    make_private_folder(folder)
    return FileLock(folder / LOCK)


def _take_back_place(database: Database, membership: Membership, superlink: Address) -> None:
    """Make sure that the SuperLink doesn't hold our place for a node that is gone."""
    from earmark_client.federation.flower import take_back_place

    stored = database.federation_value(NODE_NUMBER)
    known = None if stored is None else int(stored)
    number = take_back_place(str(superlink), membership.ca_pem, membership.keys.node, known)
    if number is not None and number != known:
        with database.transaction():
            database.set_federation_value(NODE_NUMBER, str(number).encode())


def _executor(runtime: Runtime, participant: Participant, node: Node) -> Executor:
    from earmark_client.federation.executor import Executor
    from earmark_client.federation.flower import make_app

    return Executor(runtime, make_app(participant, clock=time.time), is_given_up=node.is_given_up)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _wait(seconds: float, is_stopped: Callable[[], bool]) -> None:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s and not is_stopped():
        time.sleep(POLL_S)
