"""gRPC between a device and a server: limits, TLS with client certificates, and calls whose bytes go through our codec.

No code is generated: a service's methods are read from its definition in protos/, requests and replies are records.

    with open_channel(Address("127.0.0.1", 7443), ca_pem) as channel:
        root = call(channel, "Door", "Greet", Hello(PROTO), Root)

TLS: gRPC for Python has no switch for the least version and also takes 1.2; nginx in front of it takes only 1.3
(scripts/deploy). What Python lets us decide is 1.3 only: `fetch_certificate`.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Timer
from typing import Any, TypeVar

import grpc

from earmark_shared.errors import EarmarkError, NetworkError
from earmark_shared.shapes import Message
from earmark_shared.wire.codec import MESSAGE_SIZE_MOST, decode, encode
from earmark_shared.wire.status import TRY_LATER, network_error, refuse
from earmark_shared.wire.v1 import enrol_pb2, release_pb2

PACKAGE = "earmark.v1"
CALL_S = 20.0
CALLS_MOST = 64
"""Calls a server holds at once, each in a thread; one more is refused as busy."""
PATIENCE_S = 10.0
"""A call whose request isn't there after so long is ended: it holds a thread all the while."""
LIMITS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MESSAGE_SIZE_MOST),
    ("grpc.max_send_message_length", MESSAGE_SIZE_MOST),
    ("grpc.max_metadata_size", 16 << 10),
)
SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    *LIMITS,
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 32),
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ("grpc.http2.max_ping_strikes", 2),
)
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    *LIMITS,
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # two channels of one process never share a connection, nor its certificate
)
M = TypeVar("M", bound=Message)
Handler = Callable[[Any, grpc.ServicerContext], Message]


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        """Write it as gRPC reads it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Credentials:
    """A private key and its certificate, PEM."""

    key_pem: bytes
    cert_pem: bytes


def fetch_certificate(address: Address, *, timeout_s: float = CALL_S) -> bytes:
    """Return the certificate that a server shows, PEM, over TLS 1.3. Requires: the caller checks by other means what it reaches.

    Raises:
        NetworkError: nobody is there, or nobody who speaks TLS 1.3.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the fingerprint decides, not a name
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((address.host, address.port), timeout=timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=address.host) as wrapped,
        ):
            shown = wrapped.getpeercert(binary_form=True)
    except OSError as error:
        raise NetworkError(f"{address} can't be reached by TLS 1.3.", hint=TRY_LATER) from error
    if not shown:
        raise NetworkError(f"{address} shows no certificate.", hint=TRY_LATER)
    return ssl.DER_cert_to_PEM_cert(shown).encode()


def open_channel(address: Address, ca_pem: bytes, credentials: Credentials | None = None) -> grpc.Channel:
    """Open a TLS channel that trusts `ca_pem` and nothing else, with a client certificate if one is given."""
    key_pem, cert_pem = (credentials.key_pem, credentials.cert_pem) if credentials else (None, None)
    tls = grpc.ssl_channel_credentials(root_certificates=ca_pem, private_key=key_pem, certificate_chain=cert_pem)
    return grpc.secure_channel(str(address), tls, options=CHANNEL_OPTIONS)


def call(channel: grpc.Channel, service: str, method: str, request: Message, reply: type[M], *, timeout_s: float = CALL_S) -> M:
    """Call a method and wait at most `timeout_s`; return its reply.

    Raises:
        NetworkError: the server is not there. TrustError, ProtocolError: it refuses. MalformedError: its reply is no `reply`.
    """
    send = channel.unary_unary(f"/{PACKAGE}.{service}/{method}", request_serializer=None, response_deserializer=None)
    try:
        answer: bytes = send(encode(request), timeout=timeout_s)
    except grpc.RpcError as error:
        raise network_error(error) from error
    return decode(reply, answer)


def new_server() -> grpc.Server:
    """Return a server with every limit set, and nothing to serve yet."""
    return grpc.server(ThreadPoolExecutor(CALLS_MOST), options=SERVER_OPTIONS, maximum_concurrent_rpcs=CALLS_MOST)


def listen(server: grpc.Server, address: Address, credentials: Credentials, *, client_ca_pem: bytes | None = None) -> int:
    """Listen with TLS, asking for client certificates of `client_ca_pem` if it is given; return the port (0 chose a free one).

    Raises:
        NetworkError: the address can't be listened on.
    """
    pair = [(credentials.key_pem, credentials.cert_pem)]
    tls = grpc.ssl_server_credentials(pair, client_ca_pem, require_client_auth=client_ca_pem is not None)
    try:
        return int(server.add_secure_port(str(address), tls))
    except RuntimeError as error:
        raise NetworkError(f"{address} can't be listened on.", hint="Name another --port, or stop what listens there.") from error


def add_service(
    server: grpc.Server, service: str, handlers: Mapping[str, Handler], requests: Mapping[str, type[Message]]
) -> None:
    """Serve the methods of `service` in protos/, each by its handler; an EarmarkError a handler raises is told to the device."""
    homes = (enrol_pb2.DESCRIPTOR.services_by_name, release_pb2.DESCRIPTOR.services_by_name)
    methods: Sequence[Any] = next(home for home in homes if service in home)[service].methods
    table = {method.name: _serve(handlers[method.name], requests[method.input_type.name]) for method in methods}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(f"{PACKAGE}.{service}", table),))


def _serve(handler: Handler, kind: type[Message]) -> grpc.RpcMethodHandler:
    def run(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        impatience = Timer(PATIENCE_S, context.cancel)
        impatience.daemon = True
        impatience.start()
        try:
            received = next(requests, b"")
        finally:
            impatience.cancel()
        try:
            return encode(handler(decode(kind, received), context))
        except EarmarkError as error:
            refuse(context, error)
        except Exception as error:  # noqa: BLE001  gRPC would tell the device what it says
            refuse(context, EarmarkError(str(error)))

    return grpc.stream_unary_rpc_method_handler(run)  # the same on the wire, but we are called before the request is there
