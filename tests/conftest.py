"""Every test gets a clean environment, a home of its own, and no way out of this machine."""

import gc
import os
import socket
import sys
from collections import Counter
from functools import cache

import pytest

LOOPBACK = ("127.", "::1", "localhost")
LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
MOVES = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"}


def is_loopback(host):
    return host in {None, "", b""} or str(host).startswith(LOOPBACK)


def refuse_the_network(event, args):
    """An audit hook: no socket of this process reaches an address outside loopback, whatever library opens it."""
    host = None
    if event in LOOKUPS:
        host = args[0]
    elif event in MOVES and args[0].family in {socket.AF_INET, socket.AF_INET6} and isinstance(args[1], tuple):
        host = args[1][0]
    if not is_loopback(host):
        raise PermissionError(f"a test tried to reach {host}")


sys.addaudithook(refuse_the_network)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path_factory):
    """No setting of the person who runs the tests reaches them, and nothing they do reaches that person's files."""
    for name in [name for name in os.environ if name.startswith(("EARMARK_", "XDG_")) or name in {"NO_COLOR", "COLUMNS"}]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.getbasetemp() / "person"))
    monkeypatch.setenv("TZ", "UTC")


def pytest_collection_finish():
    """Look for garbage among what tests leave, not again and again among all that was imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True, scope="session")
def base_graphs_once():
    """The shipped model's graphs are verified and opened once a process; every other model's as often as they are asked for."""
    from earmark_client.library import BASE_MODEL
    from earmark_client.model import encoder, text
    from earmark_client.model.bundle import Bundle

    open_session = encoder.open_session

    @cache
    def base_session(file, *given, **named):
        return open_session(Bundle.load(BASE_MODEL), file, *given, **named)

    def open_once(bundle, *given, **named):
        is_base = bundle.folder == BASE_MODEL and bundle.verify
        return base_session(*given, **named) if is_base else open_session(bundle, *given, **named)

    with pytest.MonkeyPatch.context() as patched:
        for module in (encoder, text):
            patched.setattr(module, "open_session", open_once)
        yield


@cache
def _known_epsilon(groups, delta):
    return _real_epsilon()(Counter(dict(groups)), delta)


@cache
def _real_epsilon():
    from earmark_shared.privacy import accountant

    return accountant._epsilon


@pytest.fixture(scope="module")
def epsilons_once():
    """For modules that charge many ledgers alike: the accountant composes the same events at the same delta once."""
    from earmark_shared.privacy import accountant

    _real_epsilon()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(accountant, "_epsilon", lambda groups, delta: _known_epsilon(tuple(groups.items()), delta))
        yield
