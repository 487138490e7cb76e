"""A federation of real processes on loopback, for tests that kill them: server, SuperLink, SuperNodes and what runs beside them.

What phase a round is in, the tests read where the SuperLink keeps its messages; nothing in the product tells them. Devices add far
more noise than a lab asks for, so that dozens of rounds fit into one budget; nothing else about them is changed.
"""

import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from earmark_client.federation import enrol
from earmark_client.federation.spending import open_ledger
from earmark_client.library import Library
from earmark_client.store.home import open_home
from earmark_client.store.keys import KeyFile
from earmark_server.authority import create_authority
from earmark_server.checkpoint import Checkpoint
from earmark_server.enrolment import Enroller
from earmark_server.publish import create_repository
from earmark_server.registry import Registry
from earmark_server.rounds import FOLDER
from earmark_server.settings import ServerSettings
from earmark_shared.settings import child_environment
from earmark_shared.wire.envelope import ACTIONS
from tests.soundmaker import tone, write_sound

HOST = "127.0.0.1"
PHASES = tuple(ACTIONS.values())
CLIPS = 16
HELD = {
    "ins": "SELECT group_id, message_type, dst_node_id FROM message_ins",
    "res": "SELECT group_id, message_type, src_node_id FROM message_res WHERE error IS NULL",
}
"""What the SuperLink holds: from the server, and from devices."""
LOOK_S = 0.05
NODE_S, ROUND_S = 300.0, 900.0
"""How long a node may take to connect, and a round to end, on a machine that is busy with other things."""
PARTICIPATE = """
import sys
from dataclasses import replace
from earmark_client.cli.main import main
from earmark_client.federation import device
from earmark_client.learn import finetune
device.LAB_TRAINING = replace(device.LAB_TRAINING, noise_multiplier=15.9, steps=1)
sys.exit(main(["participate"]))
"""


def eventually(fact, seconds, what):
    """Wait until `fact()` is true, and return it. Time in which this process was suspended doesn't count."""
    left_s, looked_s = seconds, time.monotonic()
    while not (found := fact()):
        now_s = time.monotonic()
        left_s, looked_s = left_s - min(now_s - looked_s, 1.0), now_s
        if left_s <= 0:
            raise TimeoutError(f"{what} did not come in {seconds:g} s")
        time.sleep(LOOK_S)
    return found


def free_ports():
    """Return a port that is free, with the next two."""
    while True:
        base = 20_000 + secrets.randbelow(20_000)
        try:
            with ExitStack() as probes:
                for port in range(base, base + 3):
                    probes.enter_context(socket.socket()).bind((HOST, port))
        except OSError:
            continue
        return base


def descendants(pid):
    """Return the processes that a process started, and they in turn."""
    below = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        below.setdefault(parent, []).append(int(stat.parent.name))
    found = list(below.get(pid, ()))
    for each in found:
        found += below.get(each, ())
    return found


def kill(*pids):
    """`kill -9`, all of them before any of them can notice."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def kill_tree(process):
    """`kill -9` a process of ours and everything below it, and wait until it is gone."""
    kill(process.pid, *descendants(process.pid))
    process.wait(30)


@dataclass
class Device:
    """One home and its process."""

    home: Path
    process: subprocess.Popen | None = None
    node_id: int = 0
    rows: list = field(default_factory=list)
    spent: float = 0.0

    @property
    def secret(self):
        return KeyFile(self.home.with_suffix(".key"))

    def look(self):
        """Read the ledger: what was there before must still be there."""
        with closing(open_home(self.home, self.secret)) as home:
            ledger = open_ledger(home, self.secret, clock=time.time)
            rows, spent = ledger.rows(), ledger.spent().record
        assert rows[: len(self.rows)] == self.rows
        self.rows = rows
        return spent

    def charged(self):
        """The first four bytes of every round that counts as spent."""
        last = {row.key: row for row in self.rows if row.round_id}
        return {row.round_id[:4].hex() for row in last.values() if row.state != "released"}


class Live:
    """A running federation; `with` ends every process of it."""

    MEMBERS_ABOVE = 1
    """How far above the port to join at is that of members; behind nginx they are one."""

    def __init__(self, folder, count, *, taking_part=None):
        self.folder, self.server, self.port = folder, folder / "server", free_ports()
        (folder / "tmp").mkdir(parents=True)
        self._make_server()
        self.devices = [Device(folder / f"device{place}") for place in range(count)]
        self.taking_part = self.devices[:taking_part]
        self.serving = self.rounds = None
        self.seen = set()
        """Every (round, phase, node, who) that the SuperLink held a message of; `who` is "ins" for the server, "res" for the device."""

    def __enter__(self):
        self.serve()
        try:
            self._make_devices()
            for device in self.taking_part:
                self.participate(device)
            self.await_nodes(self.taking_part)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in (*(device.process for device in self.devices), self.rounds, self.serving):
            if process is not None and process.poll() is None:
                kill_tree(process)

    def _make_server(self):
        settings = ServerSettings(host=HOST, port=self.port, member_port=self.port + self.MEMBERS_ABOVE, is_lab=True)
        authority = create_authority(self.server, settings, now_s=int(time.time()), entropy=os.urandom)
        create_repository(authority.places.tuf_root.parent, authority.places.release_keys, clock=time.time)
        self.authority = authority
        self.set_deadlines(300, 120)

    def set_deadlines(self, first_s, other_s):
        """How long rounds from now on wait for devices to come forward, and in every other phase."""
        (self.server / "rounds.toml").write_text(f"deadline_s = {[first_s, *[other_s] * 4]}\n")

    def settle_deadlines(self):
        """Run a round that nobody disturbs, and let later ones wait only as much longer as this machine needs."""
        began_s = time.monotonic()
        self.begin_rounds()
        self.await_round()
        took_s = time.monotonic() - began_s
        assert self.records()[-1].outcome == "published"
        self.set_deadlines(min(300, 15 + int(took_s)), min(120, 5 + int(took_s / 4)))

    def _make_devices(self):
        """One library, copied before it joins; what is learned is of no interest here."""
        first = self.devices[0]
        with Library.create(first.home, unlock=first.secret) as library:
            sounds = self.folder / "sounds"
            sounds.mkdir()
            for place in range(CLIPS + 2):
                write_sound(sounds, f"clip{place}", tone(1.2, 300.0 + 40 * place))
            library.add([sounds])
            for clip in library.clips():
                library.label(str(clip.paths[0]), "dog")
        for device in self.devices[1:]:
            shutil.copytree(first.home, device.home)
            shutil.copyfile(first.secret.path, device.secret.path)
            device.secret.path.chmod(0o600)
        for device in self.devices:
            self.join(device)

    def join(self, device):
        """Join, and wait until the SuperLink knows the device's node."""
        world = enrol.World(time.time, os.urandom)
        with closing(Registry(self.authority.places.registry)) as registry:
            token = Enroller(self.authority, registry, clock=time.time, entropy=os.urandom).invite()
        fingerprint = self.authority.root(bytes(32)).fingerprint().hex()
        invitation = enrol.read_invitation(f"earmark://{HOST}:{self.port}/{fingerprint}")
        with closing(open_home(device.home, device.secret, write=True)) as home:
            key = enrol.join(home.database, invitation, token, world, as_lab=True).keys.node.public
        device.node_id = eventually(lambda: self._node_ids().get(key), 60, "the node's registration")

    def start(self, *command, log, home=None):
        """Start a program of ours in a session of its own."""
        ours = {} if home is None else {"EARMARK_HOME": str(home), "EARMARK_KEY_FILE": str(home.with_suffix(".key"))}
        environment = child_environment(TMPDIR=str(self.folder / "tmp"), **ours)
        with (self.folder / log).open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *command],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def serve(self):
        self.serving = self.start("-m", "earmark_server.cli", "serve", str(self.server), log="serve.log")

    def participate(self, device):
        device.process = self.start("-c", PARTICIPATE, log=f"{device.home.name}.log", home=device.home)

    def begin_rounds(self, count=1):
        self.rounds = self.start("-m", "earmark_server.cli", "round", str(self.server), "--rounds", str(count), log="round.log")

    def coordinator(self):
        """The process that runs our app at the SuperLink, if one does."""
        for pid in descendants(self.serving.pid):
            try:
                if b"flwr-serverapp" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
            except OSError:
                continue
        return None

    def records(self):
        state = Checkpoint(self.server / FOLDER).load()
        return state.rounds if state else ()

    def ask(self, question, *values):
        """Ask the SuperLink's database; nothing while it isn't there."""
        try:
            with closing(sqlite3.connect(f"file:{self.server}/flower/state.db?mode=ro", uri=True, timeout=5)) as database:
                return database.execute(question, values).fetchall()
        except sqlite3.OperationalError:
            return []

    def look(self):
        """Note which messages the SuperLink holds now, and return all that it ever did."""
        for who, question in HELD.items():
            rows = self.ask(question)
            self.seen |= {(group, kind.removeprefix("train."), node % 2**64, who) for group, kind, node in rows}
        return self.seen

    def asked(self, group, phase, who="ins"):
        """The nodes that were asked in a phase of a round (or answered)."""
        return {node for seen_group, kind, node, by in self.look() if (seen_group, kind, by) == (group, phase, who)}

    def open_group(self, number):
        """How Flower's messages name round `number`, once it is open; nothing before."""
        records = self.records()
        return records[number - 1].round_id[:8] if len(records) >= number else ""

    def await_nodes(self, devices):
        """Wait until the SuperLink counts these devices' present processes as connected."""
        wanted = {device.node_id for device in devices}

        def are_there():
            now = {node % 2**64 for (node,) in self.ask("SELECT node_id FROM node WHERE status = 'online'")}
            return wanted <= now and all(self._has_node(device) for device in devices)

        eventually(are_there, NODE_S, "the nodes' connection")

    def await_round(self):
        """Wait until the rounds that were begun are over, looking all the while."""

        def is_over():
            self.look()
            return self.rounds.poll() is not None

        eventually(is_over, ROUND_S, "the round's end")
        assert self.rounds.returncode == 0, (self.folder / "round.log").read_text()

    def _has_node(self, device):
        """Whether the SuperNode that this very process started has connected."""
        logs = [Path(f"/proc/{pid}/cwd/supernode.log") for pid in descendants(device.process.pid)]
        return any("SuperNode ID" in log.read_text(errors="replace") for log in logs if log.exists())

    def _node_ids(self):
        from earmark_server.flower import _der

        return {_der(key): node % 2**64 for node, key in self.ask("SELECT node_id, public_key FROM node")}
