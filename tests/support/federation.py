"""A federation's server inside the test's own process, on loopback, with a clock that the test moves; and devices for it."""

import atexit
import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from earmark_client.federation import enrol
from earmark_server.authority import create_authority, open_authority
from earmark_server.enrolment import Enroller
from earmark_server.limits import Limits
from earmark_server.registry import Registry
from earmark_server.service import EnrolmentService, Ports, direct_caller, start_direct
from earmark_server.settings import ServerSettings
from earmark_shared.crypto.identities import Identity
from earmark_shared.crypto.nodes import NodeKey
from earmark_shared.enrolment import PROTO, Hello, Join, sign_join

HOST = "127.0.0.1"


class Clock:
    """The real time, moved by as much as a test says."""

    def __init__(self):
        self.shift_s = 0.0

    def __call__(self):
        return time.time() + self.shift_s


@cache
def _made(is_lab):
    """One server's folder for a whole run: making its keys and waiting for the disk takes longer than most tests."""
    folder = Path(tempfile.mkdtemp(prefix="earmark-server-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    settings = ServerSettings(host=HOST, port=0, member_port=0, is_lab=is_lab)
    create_authority(folder / "server", settings, now_s=int(time.time()), entropy=os.urandom)
    return folder / "server"


class Federation:
    """A server and what tests do with it."""

    def __init__(self, folder, *, is_lab=False):
        self.clock = Clock()
        shutil.copytree(_made(is_lab), folder)
        self.authority = open_authority(folder)
        self.registry = Registry(self.authority.places.registry)
        self.enroller = Enroller(self.authority, self.registry, clock=self.clock, entropy=os.urandom)
        self.limits = Limits(self.clock, calls_a_minute=10_000)
        self.service = EnrolmentService(self.enroller, self.limits, direct_caller, clock=self.clock)
        self.world = enrol.World(self.clock, os.urandom)
        self.ports = None

    @property
    def fingerprint(self):
        return self.authority.root(bytes(32)).fingerprint()

    @property
    def invitation(self):
        return enrol.read_invitation(f"earmark://{HOST}:{self.ports.join}/{self.fingerprint.hex()}")

    @contextmanager
    def serving(self):
        server, self.ports = start_direct(self.service, self.enroller, Ports(HOST, 0, 0))
        try:
            yield self
        finally:
            server.stop(0).wait()

    def join(self, database, token=None, *, as_lab=False):
        return enrol.join(database, self.invitation, token or self.enroller.invite(), self.world, as_lab=as_lab)

    def request(self, token, *, keys=None, as_lab=False):
        """A well-formed `Join` and its keys, without a network."""
        identity, node = keys or (Identity.create(os.urandom), NodeKey.create())
        challenge = self.enroller.greet(Hello(PROTO)).challenge
        join = Join(challenge, token, identity.public, node.public, as_lab, bytes(64), bytes(8))
        return sign_join(join, self.fingerprint, identity, node), (identity, node)

    def close(self):
        self.registry.close()
