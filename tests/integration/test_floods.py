"""T3: one hostile address floods a deployed server (nginx, `serve --behind-nginx`, SuperLink), and honest devices hardly notice."""

import http.client
import ssl
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import grpc
import pytest

from earmark_client.federation import enrol
from earmark_client.federation.releases import fetch_newest
from earmark_server.authority import open_authority
from earmark_server.publish import Repository
from earmark_server.registry import Registry
from earmark_shared.round import LAB_COHORT_LEAST
from earmark_shared.wire import channel as wire
from earmark_shared.wire.channel import Address, open_channel
from tests.house.sources import ROOT
from tests.support.federation import HOST
from tests.support.live import Live, eventually
from tests.support.nginx import Front, plan_front, running_nginx
from tests.support.nodes import WORLD
from tests.support.releases import BASE, SCHEMA, Device, some_head

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
GROWTH_MOST_KB = 200 * 1024
SLOWER_MOST = 2.0
PULL = "/v1/fleet/pull-messages"
CALLS = 8
"""Honest calls measured; nginx lets one address make sixty a minute."""


def memory_kb(pid):
    """Resident memory of a process and its descendants."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid=,rss="], capture_output=True, text=True, check=True).stdout
    rows = [tuple(map(int, line.split())) for line in listing.splitlines()]
    family, before = {pid}, 0
    while len(family) > before:
        before = len(family)
        family |= {child for child, parent, _ in rows if parent in family}
    return sum(size for each, _, size in rows if each in family)


class Deployed:
    """A whole server as scripts/deploy runs it, and an honest device."""

    def __init__(self, front, server, nginx, device):
        self.front, self.server, self.nginx, self.device = front, server, nginx, device

    def memory_kb(self):
        return memory_kb(self.server.pid) + memory_kb(self.nginx.pid)

    def honest_s(self, count=CALLS):
        """Seconds that an honest call takes: a new connection, both certificates, the log's news."""
        times = []
        for _ in range(count):
            began_s = time.monotonic()
            enrol.follow(self.device.database, WORLD)
            times.append(time.monotonic() - began_s)
            time.sleep(1.1)
        return statistics.median(times)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flood")
    front, place = plan_front(folder), folder / "server"
    run = [sys.executable, "-m", "earmark_server.cli"]
    ports = ["--port", str(front.calls), "--member-port", str(front.calls)]
    subprocess.run([*run, "init", place, "--host", HOST, *ports], check=True, capture_output=True, timeout=60)
    places = open_authority(place).places
    Repository(places.tuf_root.parent, places.release_keys, clock=time.time).publish(some_head(1), SCHEMA, base=BASE)
    words = subprocess.run([*run, "invite", place], check=True, capture_output=True, text=True, timeout=60).stdout.split()
    with (folder / "log").open("w") as log:
        command = [*run, "serve", place, "--behind-nginx", front.socket, "--flower-port", str(front.superlink)]
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with running_nginx(front, places.tls) as nginx:
            until_s = time.monotonic() + 120
            while not front.socket.exists() or not listens(front.superlink):
                assert server.poll() is None
                assert time.monotonic() < until_s
                time.sleep(0.2)
            device = Device(folder / "home")
            enrol.join(device.database, enrol.read_invitation(words[2]), enrol.read_token(words[4]), WORLD, as_lab=False)
            made = Deployed(front, server, nginx, device)
            with Registry(places.registry) as registry:  # `serve` is busy until Flower is loaded and the node let in
                while not registry.devices()[0].is_node:
                    assert time.monotonic() < until_s
                    time.sleep(0.5)
            made.honest_s(2)
            made.usual_kb = made.memory_kb()
            yield made
    finally:
        server.terminate()
        server.wait(60)


def listens(port):
    try:
        wire.socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def hostile(kind, port, seconds, *path):
    """Let a flood begin, and yield its process; it is killed at the block's end."""
    command = [sys.executable, str(ROOT / "tests" / "support" / "flood.py"), kind, str(port), str(seconds), *path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        time.sleep(3)
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def flood(kind, port, seconds, *path):
    """Flood for the block, and wait for its end; yields what it will have sent."""
    sent = []
    with hostile(kind, port, seconds, *path) as process:
        yield sent
        sent.append(int(process.communicate(timeout=seconds + 30)[0]))


def fleet_s(deployed, count=CALLS):
    """Seconds that a request takes to the SuperLink and back, by a new connection; it is empty, and Flower says so."""
    context = ssl.create_default_context(cadata=enrol.joined(deployed.device.database).ca_pem.decode())
    times = []
    for _ in range(count):
        began_s = time.monotonic()
        connection = http.client.HTTPSConnection(HOST, deployed.front.fleet, context=context, timeout=30)
        connection.request("POST", PULL)
        assert connection.getresponse().status == 415
        connection.close()
        times.append(time.monotonic() - began_s)
        time.sleep(0.5)
    return statistics.median(times)


def check_well(deployed, during_s, usual_s, memory):
    grown = (memory - deployed.usual_kb) >> 10
    figures = f"an honest request took {during_s * 1000:.0f} ms, not {usual_s * 1000:.0f}; {grown} MB more"
    print(figures)
    assert during_s <= SLOWER_MOST * usual_s, figures
    assert memory - deployed.usual_kb <= GROWTH_MOST_KB, figures
    assert deployed.server.poll() is None
    assert deployed.nginx.poll() is None


def flooded(deployed, measure, kind, port, seconds, *path):
    """Measure before, during and after a flood, since whatever else this machine does changes too; return what was sent."""
    before_s = measure()
    with flood(kind, port, seconds, *path) as sent:
        during_s, memory = measure(), deployed.memory_kb()
    print(kind, sent)
    check_well(deployed, during_s, max(before_s, measure()), memory)
    return sent[0]


@pytest.mark.parametrize(
    ("kind", "seconds", "least"),
    [("garbage", 20, 20 * 2000 * 0.9), ("half-open", 20, 500), ("slow", 60, 200)],
    ids=["garbage", "half-open", "slow"],
)
def test_a_flood_at_enrolment_hardly_slows_an_honest_call(deployed, kind, seconds, least):
    assert flooded(deployed, deployed.honest_s, kind, deployed.front.calls, seconds) >= least


def test_a_flood_at_flowers_interface_hardly_slows_an_honest_request(deployed):
    assert flooded(deployed, lambda: fleet_s(deployed), "garbage", deployed.front.fleet, 20, PULL) >= 20 * 2000 * 0.9


def test_ten_megabytes_are_refused_at_both_ports_and_leave_nothing_behind(deployed, monkeypatch):
    monkeypatch.setattr(wire, "CHANNEL_OPTIONS", (("grpc.max_send_message_length", -1),))
    membership = enrol.joined(deployed.device.database)
    with open_channel(Address(HOST, deployed.front.calls), membership.ca_pem) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/earmark.v1.Door/Greet")(bytes(10 << 20), timeout=30)
    assert refused.value.code() in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
    context = ssl.create_default_context(cadata=membership.ca_pem.decode())
    connection = http.client.HTTPSConnection(HOST, deployed.front.fleet, context=context, timeout=30)
    connection.putrequest("POST", "/v1/fleet/push-object")
    connection.putheader("Content-Length", str(10 << 20))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    assert deployed.memory_kb() - deployed.usual_kb <= GROWTH_MOST_KB
    assert deployed.honest_s(2) < wire.CALL_S
    assert deployed.server.poll() is None


def test_after_all_of_it_a_release_is_still_fetched(deployed):
    time.sleep(10)
    assert fetch_newest(deployed.device.home, clock=time.time).number == 1


# A whole round

ONE_ADDRESS = (("rate=60r/m", "rate=600r/m"), ("burst=30 nodelay", "burst=300 nodelay"))
"""The honest devices share one address here, and what one address may do; so the flood's may do more as well."""


class LiveBehindNginx(Live):
    """A running federation of a lab, deployed."""

    MEMBERS_ABOVE = 0

    def __init__(self, folder, count):
        super().__init__(folder, count)
        self.front = Front(folder, self.port, self.port + 1, self.port + 2, folder / "enrolment.sock")

    def serve(self):
        command = ["-m", "earmark_server.cli", "serve", str(self.server), "--behind-nginx", str(self.front.socket)]
        self.serving = self.start(*command, log="serve.log")
        eventually(self.front.socket.exists, 60, "the server")

    def round_s(self):
        """Seconds that a round takes, from the operator's command to its end."""
        began_s = time.monotonic()
        self.begin_rounds()
        self.await_round()
        assert self.records()[-1].outcome == "published"
        return time.monotonic() - began_s


@pytest.mark.timeout(1800)
def test_a_flood_at_both_ports_hardly_slows_a_round(tmp_path):
    live = LiveBehindNginx(tmp_path / "live", LAB_COHORT_LEAST)
    with running_nginx(live.front, live.authority.places.tls, ONE_ADDRESS), live:
        live.round_s()  # the first loads what the others find loaded
        before_s = live.round_s()
        with ExitStack() as floods:
            kinds = (("half-open", live.front.calls), ("garbage", live.front.fleet, PULL))
            going = [floods.enter_context(hostile(kind, port, 900, *path)) for kind, port, *path in kinds]
            during_s = live.round_s()
            assert [process.poll() for process in going] == [None, None], "a flood ended before the round did"
        after_s = live.round_s()
    figures = f"a round took {during_s:.0f} s under floods, {before_s:.0f} s before and {after_s:.0f} s after"
    print(figures)
    assert during_s <= SLOWER_MOST * max(before_s, after_s), figures
