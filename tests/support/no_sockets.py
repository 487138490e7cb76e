"""Run a program that the kernel kills (SIGSYS) when it, a library's C code or any child opens a socket.

python no_sockets.py all PROGRAM ARGUMENTS...     no socket of any kind
python no_sockets.py inet PROGRAM ARGUMENTS...    none but Unix sockets (a desktop's keyring is reached by one)
"""

import ctypes
import os
import platform
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, KILL_PROCESS = 0x7FFF0000, 0x80000000
SYSCALL_NUMBER, FIRST_ARGUMENT = 0, 16
SOCKET = {"x86_64": 41, "aarch64": 198}[platform.machine()]
AF_UNIX = 1


class Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("value", ctypes.c_uint32)]


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(Instruction))]


def filter_for(kind):
    """BPF: allow every call but socket(2), and that one only for Unix sockets when `kind` is "inet"."""
    spare_unix = kind == "inet"
    return [
        Instruction(LOAD, 0, 0, SYSCALL_NUMBER),
        Instruction(JUMP_EQUAL, 1, 0, SOCKET),
        Instruction(RETURN, 0, 0, ALLOW),
        Instruction(LOAD, 0, 0, FIRST_ARGUMENT),
        Instruction(JUMP_EQUAL, 0 if spare_unix else 1, 1, AF_UNIX),
        Instruction(RETURN, 0, 0, ALLOW),
        Instruction(RETURN, 0, 0, KILL_PROCESS),
    ]


def forbid_sockets(kind):
    lines = filter_for(kind)
    program = Program(len(lines), (Instruction * len(lines))(*lines))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)):
        raise OSError(ctypes.get_errno(), "the kernel took no filter")


if __name__ == "__main__":
    forbid_sockets(sys.argv[1])
    os.execv(sys.argv[2], sys.argv[2:])
