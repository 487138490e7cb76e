"""Every test gets a clean environment, a home of its own, and no way out of this machine."""

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
