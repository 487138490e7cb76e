"""S8: a server can't send a device's Flower elsewhere, and no proxy of the environment sees what it says, on loopback or to the server."""

import http.server
import ssl
import threading
import time
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.fleet_http_client import FleetHttpClient
from tests.support.federation import HOST, Federation
from tests.support.homes import new_database

from earmark_client.federation import direct, executor, flower, supervisor
from earmark_client.federation.executor import Executor, Runtime
from earmark_client.federation.supervisor import running_node
from earmark_shared.children import program
from earmark_shared.errors import NetworkError
from earmark_shared.wire.channel import Address

ADMIN = "/admin/reboot?now=1"


@contextmanager
def listening(answer, context=None):
    """A server on loopback that notes what it is asked for; yields its port and the list."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append(self.path)
            self.send_response(answer[0])
            for name, value in (*answer[1:], ("Content-Length", "0")):
                self.send_header(name, value)
            self.end_headers()

        do_GET = do_CONNECT = do_POST

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer((HOST, 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield SimpleNamespace(port=server.server_port, seen=seen)
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def proxies(monkeypatch):
    """A proxy that the environment names, as in many companies."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with listening((502,)) as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://{HOST}:{proxy.port}")
            monkeypatch.setenv(name.upper(), f"http://{HOST}:{proxy.port}")
        yield proxy


@pytest.fixture
def home(tmp_path):
    """A device that joined, its own network's router, and in its server's place one that redirects whatever comes to that."""
    federation = Federation(tmp_path / "server")
    tls = federation.authority.places.tls
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls / "server.pem", tls / "server.key")
    with ExitStack() as stack:
        stack.callback(federation.close)
        database = new_database(tmp_path)
        stack.callback(database.close)
        with federation.serving():
            membership = federation.join(database)
        router = stack.enter_context(listening((200,)))
        link = stack.enter_context(listening((307, ("Location", f"http://{HOST}:{router.port}{ADMIN}")), context))
        yield SimpleNamespace(membership=membership, router=router, link=link, superlink=Address(HOST, link.port))


def take_back(home):
    flower.take_back_place(str(home.superlink), home.membership.ca_pem, home.membership.keys.node, None)


def test_a_redirect_is_not_followed(home):
    take_back(home)
    assert home.link.seen
    assert home.router.seen == []


def test_control_flowers_own_client_follows_it_to_plain_http(home, monkeypatch):
    monkeypatch.setattr(flower, "FleetClient", FleetHttpClient)
    take_back(home)
    assert home.router.seen == [ADMIN, ADMIN]


def wait_for(fact, seconds=60):
    until_s = time.monotonic() + seconds
    while not fact() and time.monotonic() < until_s:
        time.sleep(0.1)


def run_node(home):
    """Start a SuperNode; it ends, or has asked the router."""
    with running_node(home.membership, home.superlink) as (_, node):
        wait_for(lambda: node.poll() is not None or home.router.seen)
    assert home.link.seen


@pytest.mark.slow
def test_nor_does_a_supernode_follow_it(home):
    run_node(home)
    assert home.router.seen == []


@pytest.mark.slow
def test_control_flowers_own_supernode_does(home, monkeypatch):
    monkeypatch.setattr(direct, "supernode_command", lambda: [program("flower-supernode")])
    run_node(home)
    assert home.router.seen


def step():
    with pytest.raises(NetworkError):
        Executor(Runtime(f"{HOST}:9", b"s" * 32), SimpleNamespace()).step()


def test_no_proxy_sees_what_is_said_on_loopback_or_to_the_server(proxies, home):
    step()
    take_back(home)
    assert home.link.seen
    assert proxies.seen == []


@pytest.mark.slow
def test_nor_what_a_supernode_says(proxies, home):
    run_node(home)
    assert proxies.seen == []


def test_control_flowers_own_clients_ask_the_proxy(proxies, home, monkeypatch):
    monkeypatch.setattr(executor, "RuntimeClient", RuntimeHttpClient)
    monkeypatch.setattr(flower, "FleetClient", FleetHttpClient)
    step()
    assert [path.split("/v1")[0] for path in proxies.seen] == [f"http://{HOST}:9"]
    take_back(home)
    assert str(home.superlink) in proxies.seen


@pytest.mark.slow
def test_control_so_does_flowers_own_supernode(proxies, home, monkeypatch):
    monkeypatch.setattr(direct, "supernode_command", lambda: [program("flower-supernode")])
    monkeypatch.setattr(supervisor, "child_environment", lambda **ours: dict(supervisor.os.environ) | ours)
    with running_node(home.membership, home.superlink) as (_, node):
        wait_for(lambda: node.poll() is not None or proxies.seen)
    assert str(home.superlink) in proxies.seen
