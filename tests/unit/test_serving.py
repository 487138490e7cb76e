"""What keeps a server serving: one process a folder, and a SuperLink that is there, or else said not to be."""

import os
import socket

import pytest
from tests.support.federation import Federation

from earmark_server import node
from earmark_server.cli import main
from earmark_server.node import SuperLink
from earmark_server.registry import Device
from earmark_server.service import LOCK, EnrolmentService, only_server, proxied_caller, start_behind_nginx
from earmark_shared.crypto.nodes import NodeKey
from earmark_shared.errors import HomeInUseError, NetworkError, SettingsError, StoreError


@pytest.fixture
def federation(tmp_path):
    made = Federation(tmp_path / "srv", is_lab=True)
    yield made
    made.close()


@pytest.fixture
def service(federation):
    return EnrolmentService(federation.enroller, federation.limits, proxied_caller, clock=federation.clock)


# One process a folder


def test_a_folder_that_is_served_is_served_by_nobody_else(federation, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("earmark_server.cli.harden_process", lambda: None)
    with only_server(tmp_path / "srv"):
        assert main(["serve", str(tmp_path / "srv"), "--behind-nginx", str(tmp_path / "s")]) == HomeInUseError.exit_code
    said = capsys.readouterr()
    assert LOCK in said.err
    assert "hint: Stop that one first" in said.err
    assert "serving" not in said.out
    assert not (tmp_path / "s").exists()
    with only_server(tmp_path / "srv"):
        pass


def test_a_socket_that_a_server_listens_on_is_left_to_it(service, tmp_path):
    server = start_behind_nginx(service, tmp_path / "s")
    try:
        with pytest.raises(NetworkError, match="Another server listens"):
            start_behind_nginx(service, tmp_path / "s")
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(tmp_path / "s"))
    finally:
        server.stop(0).wait()


def test_a_socket_that_a_killed_server_left_is_taken(service, tmp_path):
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / "s"))
    start_behind_nginx(service, tmp_path / "s").stop(0).wait()


def test_what_is_no_socket_is_not_removed(service, tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(SettingsError, match="notes"):
        start_behind_nginx(service, tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "mine"
    with pytest.raises(NetworkError, match="nowhere"):
        start_behind_nginx(service, tmp_path / "nowhere" / "s")


# A SuperLink that is there


class Program:
    """A child process that ends at once, or runs until it is stopped."""

    def __init__(self, returncode=None):
        self.returncode = returncode

    def poll(self):
        return self.returncode


@pytest.fixture
def superlink(federation, monkeypatch):
    """Run a SuperLink whose starts do what `starts` says, one after the other, then stop; return what was told."""
    monkeypatch.setattr(node, "stop_child", lambda child: None)

    def running(*starts):
        told, left = [], list(starts)
        made = SuperLink(federation.authority, federation.registry, port=7445, tell=told.append)
        monkeypatch.setattr(made, "_watch", lambda link: None)
        monkeypatch.setattr(made._stop, "wait", lambda seconds: None)

        def start(command, log):
            happens = left.pop(0)
            if not left:
                made._stop.set()
            if isinstance(happens, Exception):
                raise happens
            return happens

        monkeypatch.setattr(made, "_start", start)
        with made:
            pass
        assert not left
        return told

    return running


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """An error that ends the thread would be lost: pytest says it, this fails the test."""
    monkeypatch.setattr("threading.excepthook", lambda hook: pytest.fail(f"the thread died: {hook.exc_value}"))


def test_a_superlink_that_can_not_be_started_is_told_and_tried_again(superlink):
    told = superlink(OSError("no such program"), Program(), Program())
    assert len(told) == 2
    assert "no such program" in told[0]


def test_a_superlink_that_ends_again_and_again_is_told_but_not_each_time(superlink):
    told = superlink(*[Program(3)] * 10, Program())
    assert len(told) == 4, told
    assert "exit code 3" in told[0]
    assert "superlink.log" in told[0]
    assert "8 times in a row" in told[-1]


def test_a_registry_that_is_busy_does_not_end_the_watch(federation, monkeypatch):
    link = SuperLink(federation.authority, federation.registry, port=7445)
    monkeypatch.setattr(node, "SETTLE_S", 0.0)
    monkeypatch.setattr(node, "stop_child", lambda child: None)
    monkeypatch.setattr(link, "_start", lambda command, log: Program())
    asked = []

    def settle():
        asked.append(1)
        if len(asked) == 1:
            raise StoreError("SQLITE_BUSY")
        link._stop.set()

    monkeypatch.setattr(link, "_settle", settle)
    link._watch(Program())
    assert len(asked) == 2


def test_a_server_whose_superlink_can_not_have_its_secret_does_not_serve(federation, tmp_path):
    (tmp_path / "srv" / "flower" / "superexec.secret").mkdir(parents=True)
    with (
        pytest.raises(StoreError, match=r"superexec\.secret"),
        SuperLink(federation.authority, federation.registry, port=7445),
    ):
        pytest.fail("it was started")


@pytest.mark.parametrize("port", [0, 65_536])
def test_a_port_that_there_is_not_is_refused(federation, port):
    with pytest.raises(SettingsError, match=str(port)) as refused:
        SuperLink(federation.authority, federation.registry, port=port)
    assert "--flower-port" in refused.value.hint


# Whom the SuperLink lets in


class Nodes:
    """The SuperLink's Control interface, as far as nodes go."""

    def __init__(self, *known):
        self.known = {key: place for place, key in enumerate(known)}

    def node_ids(self):
        return dict(self.known)

    def register(self, key):
        assert key not in self.known
        self.known[key] = len(self.known) + 100

    def unregister(self, number):
        self.known = {key: place for key, place in self.known.items() if place != number}


def test_a_superlink_that_forgot_its_nodes_is_told_of_all_of_them_again(federation):
    devices = [Device(os.urandom(16), os.urandom(32), NodeKey.create().public, b"c", True, 1, place) for place in range(3)]
    for device in devices:
        federation.registry.add_device(device)
    before = Nodes()
    node.settle_nodes(before, federation.registry)
    assert set(before.known) == {device.node_key for device in devices}
    assert not federation.registry.unsettled_nodes()
    federation.registry.set_revoked(devices[0].alias, at_s=2)
    node.settle_nodes(before, federation.registry)
    assert set(before.known) == {device.node_key for device in devices[1:]}
    for lost in (Nodes(), Nodes(devices[0].node_key)):  # a new database; one from a backup made before the revocation
        node.settle_nodes(lost, federation.registry)
        assert set(lost.known) == {device.node_key for device in devices[1:]}


def test_every_superlink_that_starts_is_told_even_if_nothing_is_new(federation, monkeypatch):
    link = SuperLink(federation.authority, federation.registry, port=7445)
    monkeypatch.setattr(node, "SETTLE_S", 0.0)
    monkeypatch.setattr(node, "stop_child", lambda child: None)
    monkeypatch.setattr(link, "_start", lambda command, log: Program())
    told = []
    monkeypatch.setattr(link, "_settle", lambda: told.append(link._stop.set()))
    for _ in range(2):
        link._stop.clear()
        link._watch(Program())
    assert len(told) == 2
