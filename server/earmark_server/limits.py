"""How often one peer may call, and how often it may be wrong before it is shut out for a while. Bounded in memory.

A peer is an address for whoever is not enrolled yet, an alias for whoever is.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from earmark_shared.errors import BusyError

CALLS_A_MINUTE = 60
LAB_CALLS_A_MINUTE = 1200
"""A lab's devices often share one machine, and so one address."""
FAILURES_AN_HOUR = 5
MINUTE_S, HOUR_S = 60, 3600
PEERS_MOST = 10_000
"""Peers remembered; the one not heard of for longest is forgotten first."""


@dataclass
class _Peer:
    calls: deque[float] = field(default_factory=deque)
    failures: deque[float] = field(default_factory=deque)
    blocked_until_s: float = 0.0


class Limits:
    """Count calls and failures by peer; one object serves every thread."""

    def __init__(self, clock: Callable[[], float], *, calls_a_minute: int = CALLS_A_MINUTE) -> None:
        """Take a clock in seconds."""
        self._clock = clock
        self._calls_a_minute = calls_a_minute
        self._peers: OrderedDict[Hashable, _Peer] = OrderedDict()
        self._lock = threading.Lock()

    def admit(self, key: Hashable) -> None:
        """Count a call.

        Raises:
            BusyError: there were too many, or the peer is blocked.
        """
        with self._lock:
            now_s, peer = self._clock(), self._peer(key)
            _forget(peer.calls, now_s - MINUTE_S)
            if now_s < peer.blocked_until_s:
                raise BusyError("too many failed attempts from here; blocked for an hour")
            if len(peer.calls) >= self._calls_a_minute:
                raise BusyError("too many calls from here; wait a minute")
            peer.calls.append(now_s)

    def fail(self, key: Hashable) -> None:
        """Count a failed attempt to be let in; the fifth within an hour blocks the peer for an hour."""
        with self._lock:
            now_s, peer = self._clock(), self._peer(key)
            _forget(peer.failures, now_s - HOUR_S)
            peer.failures.append(now_s)
            if len(peer.failures) >= FAILURES_AN_HOUR:
                peer.blocked_until_s = now_s + HOUR_S
                peer.failures.clear()

    def _peer(self, key: Hashable) -> _Peer:
        peer = self._peers.setdefault(key, _Peer())
        self._peers.move_to_end(key)
        while len(self._peers) > PEERS_MOST:
            self._peers.popitem(last=False)
        return peer


def _forget(times: deque[float], before_s: float) -> None:
    while times and times[0] <= before_s:
        times.popleft()
