"""The enrolment service: the enroller behind gRPC, TLS, client certificates and limits.

Directly, it listens on two ports with the same methods: one where devices join, and one that asks for a client certificate, without
which the members' methods refuse. Behind nginx it listens on a Unix socket that only nginx may open; nginx speaks TLS 1.3, asks for
the certificate and passes on what it saw in two headers, which it must set on every request (scripts/deploy).
"""

from __future__ import annotations

import contextlib
import socket as sockets
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from earmark_server.enrolment import Enroller
from earmark_server.limits import Limits
from earmark_server.publish import Repository
from earmark_server.registry import Device
from earmark_server.releases import ReleasedFiles
from earmark_server.tls import load_server
from earmark_shared.enrolment import Admission, Ask, Hello, Join, Leave, Renewal, Root
from earmark_shared.errors import CertificateError, HomeInUseError, NetworkError, PhaseError, SettingsError, TrustError
from earmark_shared.files import FileLock
from earmark_shared.releasing import Piece, Wanted
from earmark_shared.shapes import Message
from earmark_shared.wire.channel import Address, Handler, add_service, listen, new_server

LOCK = "serve.lock"
"""Below the server's folder: held by the one process that serves it."""
PEER_HEADER = "x-earmark-peer"
CERT_HEADER = "x-earmark-client-cert"
REQUESTS: dict[str, type[Message]] = {kind.__name__: kind for kind in (Hello, Join, Ask, Renewal, Leave, Wanted)}
R = TypeVar("R", bound=Message)


@dataclass(frozen=True)
class Caller:
    """Who is on the other end of a call, as the transport saw it."""

    peer: str
    """The network address, without its port."""
    certificate_pem: bytes | None


Callers = Callable[[grpc.ServicerContext], Caller]


def direct_caller(context: grpc.ServicerContext) -> Caller:
    """Return who is on the other end of our own TLS."""
    shown = context.auth_context().get("x509_pem_cert")
    return Caller(_without_port(context.peer()), shown[0] if shown else None)


def proxied_caller(context: grpc.ServicerContext) -> Caller:
    """Return who nginx says is on its other end. Requires: nobody but nginx can open the socket."""
    headers: dict[str, Any] = dict(context.invocation_metadata())
    shown = urllib.parse.unquote(headers.get(CERT_HEADER, ""))
    return Caller(headers.get(PEER_HEADER, "?"), shown.encode() or None)


class EnrolmentService:
    """The methods of protos/earmark_shared/wire/v1/enrol.proto."""

    def __init__(self, enroller: Enroller, limits: Limits, callers: Callers, *, clock: Callable[[], float]) -> None:
        """Take what does the work, what holds back, how to see who calls, and a clock in Unix seconds."""
        self._enroller, self._limits, self._callers, self._clock = enroller, limits, callers, clock
        places = enroller.authority.places
        self._released = ReleasedFiles(Repository(places.tuf_root.parent, places.release_keys, clock=clock))

    def door(self) -> dict[str, Handler]:
        """Return the methods for whoever holds an invitation."""
        return {"Greet": self._greet, "Admit": self._admit}

    def members(self) -> dict[str, Handler]:
        """Return the methods for enrolled devices."""
        enroller = self._enroller
        return {
            "Follow": lambda ask, context: self._member(context, lambda _: enroller.follow(ask)),
            "Renew": lambda renewal, context: self._member(context, lambda device: enroller.renew(renewal, device)),
            "Quit": lambda leave, context: self._member(context, lambda device: enroller.quit(leave, device)),
        }

    def releases(self) -> dict[str, Handler]:
        """Return the methods of protos/earmark_shared/wire/v1/release.proto, for enrolled devices."""
        return {"Fetch": self._fetch}

    def member(self, context: grpc.ServicerContext) -> Device:
        """Return the enrolled device that calls; other services of this server let in by this as well.

        Raises:
            CertificateError: no client certificate, or not one of ours. AdmissionError: the device is revoked. BusyError: too often.
        """
        caller = self._callers(context)
        if caller.certificate_pem is None:
            self._limits.admit(caller.peer)
            raise CertificateError("this needs a device's certificate")
        alias, node_key = self._read_certificate(caller.certificate_pem)
        self._limits.admit(alias)
        return self._enroller.member(alias, node_key)

    def _greet(self, hello: Hello, context: grpc.ServicerContext) -> Root:
        self._limits.admit(self._callers(context).peer)
        return self._enroller.greet(hello)

    def _admit(self, join: Join, context: grpc.ServicerContext) -> Admission:
        peer = self._callers(context).peer
        self._limits.admit(peer)
        try:
            return self._enroller.admit(join)
        except (TrustError, PhaseError):
            self._limits.fail(peer)
            raise

    def _fetch(self, wanted: Wanted, context: grpc.ServicerContext) -> Piece:
        return self._member(context, lambda _: self._released.fetch(wanted))

    def _member(self, context: grpc.ServicerContext, work: Callable[[Device], R]) -> R:
        return work(self.member(context))

    def _read_certificate(self, pem: bytes) -> tuple[bytes, bytes]:
        """Return alias and node key. TLS checked the chain already when it was ours; behind nginx this is the check that counts."""
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            certificate.verify_directly_issued_by(self._enroller.authority.tls.certificate)
            alias = bytes.fromhex(str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value))
        except (ValueError, TypeError, IndexError, InvalidSignature) as error:
            raise CertificateError("the device's certificate is not one of ours") from error
        if not certificate.not_valid_before_utc.timestamp() <= self._clock() <= certificate.not_valid_after_utc.timestamp():
            raise CertificateError("the device's certificate is not current")
        return alias, certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class Ports:
    """Where a server listens: 0 for a free port."""

    host: str
    join: int
    member: int


def start_direct(service: EnrolmentService, enroller: Enroller, ports: Ports) -> tuple[grpc.Server, Ports]:
    """Start with our own TLS; return the server and the ports it got. NetworkError if one is taken."""
    server, tls = _serve(service), enroller.authority.tls
    credentials = load_server(enroller.authority.places.tls)
    join = listen(server, Address(ports.host, ports.join), credentials)
    member = listen(server, Address(ports.host, ports.member), credentials, client_ca_pem=tls.pem)
    enroller.member_port = member
    server.start()
    return server, Ports(ports.host, join, member)


@contextlib.contextmanager
def only_server(folder: Path) -> Iterator[None]:
    """Be the one process that serves `folder`: two would take each other's socket, and their SuperLinks each other's secret.

    Raises:
        HomeInUseError: another process serves it.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire()
    except HomeInUseError as error:
        raise HomeInUseError(
            f"{folder} is being served already: another process holds {folder / LOCK}.",
            hint="Stop that one first: systemctl stop earmark-server, or end `earmark-server serve`.",
        ) from error
    try:
        yield
    finally:
        lock.release()


def start_behind_nginx(service: EnrolmentService, socket: Path) -> grpc.Server:
    """Start on a Unix socket, for nginx; whoever may open it is believed. Requires: `service` was made with `proxied_caller`.

    Raises:
        SettingsError: the path is something else's. NetworkError: another server listens there, or nobody can.
    """
    server = _serve(service)
    _make_way(socket)
    try:
        server.add_insecure_port(f"unix:{socket}")
    except RuntimeError as error:
        raise NetworkError(f"{socket} can't be listened on.", hint="Its folder must be there, and ours to write.") from error
    server.start()
    socket.chmod(0o660)
    return server


def _make_way(socket: Path) -> None:
    """Remove the socket of a server that is gone; nothing else."""
    if not socket.exists():
        return
    if not socket.is_socket():
        raise SettingsError(f"{socket} is there already and is no socket.", hint="Name another path: --behind-nginx")
    with sockets.socket(sockets.AF_UNIX) as probe:
        try:
            probe.connect(str(socket))
        except OSError:
            socket.unlink(missing_ok=True)
            return
    raise NetworkError(f"Another server listens on {socket}.", hint="Stop it, or name another path: --behind-nginx")


def _serve(service: EnrolmentService) -> grpc.Server:
    server = new_server()
    add_service(server, "Door", service.door(), REQUESTS)
    add_service(server, "Members", service.members(), REQUESTS)
    add_service(server, "Releases", service.releases(), REQUESTS)
    return server


def _without_port(peer: str) -> str:
    """Return the address of gRPC's `ipv4:127.0.0.1:4242` or `ipv6:%5B::1%5D:4242`."""
    return peer.rpartition(":")[0] or peer
