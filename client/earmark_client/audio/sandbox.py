"""Locks the decoder's own process down: resource limits always, system calls where the kernel lets us.

Runs in the worker, after its imports and before it sees a file. What can't be had on this system is left out: the limits in
`decode.py` hold without it.
"""

from __future__ import annotations

import platform
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_ADDRESS_SPACE_BYTES = 1 << 30
_OPEN_FILES = 32
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_FILTER_MODE = 2
_DENY = 0x00050001  # SECCOMP_RET_ERRNO | EPERM
_ALLOW = 0x7FFF0000

# What decoding an open file needs: read, seek, answer, memory, time, leave. No open, socket, connect, fork, exec or kill.
_X86_64 = (
    "0 1 3 5 8 9 10 11 12 13 14 15 17 19 20 24 25 28 35 39 44 45 46 47 60 72 96 98 186 201 202 219 228 230 231 262 318 332 334"
)
_AARCH64 = (
    "25 57 62 63 64 65 66 67 79 80 93 94 96 98 99 101 113 115 124 132 134 135 139 165 169 172 178 206 207 211 212 214 215 216 222"
    " 226 233 278 291 293"
)
_CALLS = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}


def lock_down() -> None:
    """Limit memory, files and core dumps; give up the right to gain rights; deny all other system calls, best effort."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    wanted = {"RLIMIT_AS": _ADDRESS_SPACE_BYTES, "RLIMIT_FSIZE": 0, "RLIMIT_NOFILE": _OPEN_FILES, "RLIMIT_CORE": 0}
    for name, value in wanted.items():
        limit = getattr(resource, name, None)
        if limit is not None:
            _lower(resource, limit, value)
    if sys.platform == "linux":
        _deny_system_calls()


def _lower(resource: object, limit: int, value: int) -> None:
    """Set one soft and hard limit, or the lower of what is already in force."""
    getrlimit, setrlimit = resource.getrlimit, resource.setrlimit  # type: ignore[attr-defined]
    hard = getrlimit(limit)[1]
    value = value if hard < 0 else min(value, hard)
    setrlimit(limit, (value, value))


def _deny_system_calls() -> None:
    """Install a seccomp filter that answers EPERM to all but the calls above; silently not, on other machines."""
    import ctypes

    known = _CALLS.get(platform.machine())
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if known is None:
        return
    architecture, calls = known
    program = seccomp_program(architecture, [int(call) for call in calls.split()])
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    prctl(_PR_SET_SECCOMP, _FILTER_MODE, ctypes.c_char_p(header), 0, 0)


def seccomp_program(architecture: int, calls: Sequence[int]) -> bytes:
    """Classic BPF: another architecture or an unlisted call is answered EPERM."""
    load, equals, answer = 0x20, 0x15, 0x06
    lines = [(load, 0, 0, 4), (equals, 1, 0, architecture), (answer, 0, 0, _DENY), (load, 0, 0, 0)]
    for place, call in enumerate(calls):
        lines.append((equals, len(calls) - place, 0, call))
    lines += [(answer, 0, 0, _DENY), (answer, 0, 0, _ALLOW)]
    return b"".join(struct.pack("HBBI", *line) for line in lines)
