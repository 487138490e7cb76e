"""The real nginx, with the very configuration of scripts/deploy, on free ports and on a test's own folders."""

import os
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.house.sources import ROOT
from tests.support.federation import HOST

CONFIGURATION = ROOT / "scripts" / "deploy" / "nginx.conf"
UNPACKED = ROOT / ".cache" / "nginx" / "usr" / "sbin" / "nginx"
READY_S = 15.0
AROUND = """
daemon off;
{user}
worker_processes 2;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 2048; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/earmark.conf;
}}
"""
"""What stands around our file in Debian's own nginx.conf; the workers keep our user, who owns the test's folders."""


def program():
    """Where nginx is; a test that needs it fails without it, since `make test-all` fetches it."""
    found = str(UNPACKED) if UNPACKED.exists() else shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise AssertionError("there is no nginx: `make test-all` fetches it, and so does `make nginx`")
    return found


@dataclass(frozen=True)
class Front:
    """Where nginx listens, and where what it passes on goes to."""

    folder: Path
    calls: int
    """gRPC: enrolment and releases."""
    fleet: int
    """Flower's fleet interface."""
    superlink: int
    """The SuperLink behind it, on loopback."""
    socket: Path
    """Our service behind it."""


def free_ports(count):
    """Ports that are free now."""
    with ExitStack() as probes:
        taken = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in taken:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in taken]


def plan_front(folder):
    """Choose ports and a socket; nothing is started yet."""
    calls, fleet, superlink = free_ports(3)
    return Front(folder, calls, fleet, superlink, folder / "enrolment.sock")


def configuration(front, tls, changes=()):
    """The shipped configuration on a test's ports and folders; `changes` are what a test takes out of it, as (old, new)."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    places = (
        ("/var/lib/earmark/tls/", f"{tls}/"),
        ("/run/earmark/enrolment.sock", str(front.socket)),
        ("listen 7443 ", f"listen {front.calls} "),
        ("listen 7444 ", f"listen {front.fleet} "),
        ("listen [::]:7443 ssl http2;", ""),
        ("listen [::]:7444 ssl http2;", ""),
        ("server 127.0.0.1:7445;", f"server 127.0.0.1:{front.superlink};"),
    )
    for old, new in (*places, *changes):
        if old not in text:
            raise AssertionError(f"the configuration doesn't hold {old!r}")
        text = text.replace(old, new)
    return text


@contextmanager
def running_nginx(front, tls, changes=()):
    """Run nginx for the block; yield its process."""
    place = front.folder / f"nginx-{time.monotonic_ns()}"
    place.mkdir()
    (place / "earmark.conf").write_text(configuration(front, tls, changes), encoding="utf-8")
    user = "user root;" if os.geteuid() == 0 else ""
    (place / "nginx.conf").write_text(AROUND.format(user=user, folder=place), encoding="utf-8")
    command = [program(), "-p", str(place), "-c", str(place / "nginx.conf"), "-e", str(place / "error.log")]
    nginx = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _wait_for(nginx, front, place / "error.log")
        yield nginx
    finally:
        nginx.terminate()
        nginx.communicate(timeout=15)


def _wait_for(nginx, front, log):
    until_s = time.monotonic() + READY_S
    while time.monotonic() < until_s and nginx.poll() is None:
        try:
            for port in (front.calls, front.fleet):
                socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    said = log.read_text() if log.exists() else ""
    raise AssertionError(f"nginx does not listen: {said}")
