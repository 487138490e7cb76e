"""T1 at the real nginx, with the configuration that is shipped: who is refused, and that it is the check that refuses.

Behind it stand the enrolment and release service on its Unix socket and a real SuperLink, as `earmark-server serve --behind-nginx`
starts them. `make test-all` fetches nginx.
"""

import http.client
import os
import socket
import ssl
import time
from contextlib import closing
from dataclasses import replace

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from earmark_client.federation import enrol
from earmark_client.federation.identity import load_membership, store_membership
from earmark_client.federation.releases import fetch_newest
from earmark_client.federation.supervisor import running_node
from earmark_server.enrolment import Enroller
from earmark_server.node import SuperLink
from earmark_server.publish import create_repository
from earmark_server.service import EnrolmentService, Ports, proxied_caller, start_behind_nginx
from earmark_server.tls import DAY_S, TlsAuthority
from earmark_shared.crypto.nodes import NodeKey
from earmark_shared.enrolment import PROTO, Ask, Hello, News, Root
from earmark_shared.errors import AdmissionError, BusyError, CertificateError, NetworkError, ProtocolError
from earmark_shared.wire.channel import Address, Credentials, call, open_channel
from earmark_shared.wire.codec import encode
from tests.support.federation import HOST, Federation
from tests.support.nginx import plan_front, running_nginx
from tests.support.releases import BASE, SCHEMA, Device, some_head

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PASSED_ON = """location @passed_on {
        grpc_pass grpc://earmark_grpc;
        grpc_set_header x-earmark-peer $remote_addr;
        grpc_set_header x-earmark-client-cert $ssl_client_escaped_cert;
    }
"""
ANY_CERTIFICATE = (
    ("error_page 401 495 496 = @no_certificate;", "error_page 401 495 496 = @passed_on;"),
    ("location @no_certificate {", PASSED_ON + "location @no_certificate {"),
)
"""What takes nginx's check of client certificates out: any is passed on, good or not."""
OLD_TLS = (("ssl_protocols TLSv1.3;", "ssl_protocols TLSv1.2 TLSv1.3;"),)
EVERY_PATH = (
    ("location ~ ^/v1/fleet/[a-z-]+$", "location /v1/"),
    ('if ($request_uri !~ "^/v1/fleet/[a-z-]+$")', 'if ($request_uri = "")'),
)


class Deployed:
    """A server behind nginx, and what tests do at its front."""

    def __init__(self, federation, front):
        self.federation, self.front = federation, front
        self.tls, self.places = federation.authority.tls, federation.authority.places

    def nginx(self, changes=()):
        return running_nginx(self.front, self.places.tls, changes)

    def ask(self, membership, credentials):
        """Follow the log with these TLS credentials."""
        with open_channel(membership.member_address, membership.ca_pem, credentials) as channel:
            return call(channel, "Members", "Follow", Ask(1), News)

    def shown(self, membership, authority=None, **given):
        """The device's node key under another certificate."""
        key = membership.keys.node
        made = (authority or self.tls).issue_client(key.public, membership.alias, **{"now_s": int(time.time())} | given)
        return Credentials(key.private_pem(), ssl.DER_cert_to_PEM_cert(made).encode())


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nginx")
    federation, front = Federation(folder / "server"), plan_front(folder)
    places = federation.authority.places
    federation.repository = create_repository(places.tuf_root.parent, places.release_keys, clock=time.time)
    federation.service = EnrolmentService(federation.enroller, federation.limits, proxied_caller, clock=federation.clock)
    federation.enroller.member_port = front.calls
    federation.ports = Ports(HOST, front.calls, front.calls)
    server = start_behind_nginx(federation.service, front.socket)
    with SuperLink(federation.authority, federation.registry, port=front.superlink):
        yield Deployed(federation, front)
    server.stop(0).wait()
    federation.close()


@pytest.fixture
def front(deployed):
    with deployed.nginx():
        yield deployed.front


@pytest.fixture
def device(deployed, tmp_path):
    return Device(tmp_path / "home")


@pytest.fixture
def membership(deployed, front, device):
    return deployed.federation.join(device.database)


# An honest device


def test_a_device_joins_is_renewed_fetches_a_release_and_leaves_through_nginx(deployed, front, device):
    membership = deployed.federation.join(device.database)
    soon = deployed.tls.issue_client(membership.keys.node.public, membership.alias, now_s=int(time.time()), life_s=DAY_S)
    with device.database.transaction():
        store_membership(device.database, replace(membership, tls_certificate=soon))
    assert membership.alias not in enrol.follow(device.database, deployed.federation.world).revoked
    renewed = x509.load_der_x509_certificate(load_membership(device.database).tls_certificate)
    assert renewed.not_valid_after_utc.timestamp() > time.time() + 80 * DAY_S
    release = deployed.federation.repository.publish(some_head(1), SCHEMA, base=BASE)
    assert fetch_newest(device.home, clock=time.time) == release
    enrol.leave(device.database, deployed.federation.world)
    assert membership.alias in deployed.federation.registry.revoked()


def test_the_server_learns_the_callers_address_and_certificate_from_nginx_alone(deployed, membership):
    """A device can't say that it is somebody else: what it sends under nginx's names is replaced."""
    seen = []
    deployed.federation.service._callers = lambda context: seen.append(proxied_caller(context)) or seen[-1]
    lie = (("x-earmark-peer", "192.0.2.1"), ("x-earmark-client-cert", "lie"))
    try:
        for service, method, request in (("Door", "Greet", Hello(PROTO)), ("Members", "Follow", Ask(1))):
            with open_channel(membership.member_address, membership.ca_pem, membership.credentials) as channel:
                channel.unary_unary(f"/earmark.v1.{service}/{method}")(encode(request), timeout=10, metadata=lie)
    finally:
        deployed.federation.service._callers = proxied_caller
    assert [caller.peer for caller in seen] == [HOST, HOST]
    assert seen[0].certificate_pem is None
    assert seen[1].certificate_pem == membership.credentials.cert_pem


# T1: client certificates


def bad_certificates(deployed, membership):
    now_s = int(time.time())
    return {
        "expired": deployed.shown(membership, now_s=now_s - 100 * DAY_S, life_s=DAY_S),
        "not yet": deployed.shown(membership, now_s=now_s + DAY_S),
        "of another authority": deployed.shown(membership, TlsAuthority.create(now_s=now_s)),
    }


def test_without_a_current_certificate_of_this_federation_nobody_follows_or_fetches(deployed, membership):
    assert deployed.ask(membership, membership.credentials).head
    for credentials in (None, *bad_certificates(deployed, membership).values()):
        with pytest.raises(CertificateError, match="certificate, of this federation and current"):
            deployed.ask(membership, credentials)


def test_a_bad_certificate_does_not_even_get_to_the_door(deployed, membership):
    for credentials in bad_certificates(deployed, membership).values():
        with open_channel(membership.address, membership.ca_pem, credentials) as channel, pytest.raises(CertificateError):
            call(channel, "Door", "Greet", Hello(PROTO), Root)


def test_control_with_nginxs_check_taken_out_they_reach_the_service_and_with_both_out_they_are_in(deployed, joined, monkeypatch):
    shown = (None, *bad_certificates(deployed, joined).values())
    with deployed.nginx(ANY_CERTIFICATE):
        for credentials in shown:
            with pytest.raises(CertificateError, match=r"this needs a device's certificate$|not current|not one of ours"):
                deployed.ask(joined, credentials)
        monkeypatch.setattr(EnrolmentService, "member", lambda self, _: self._enroller.registry.device(joined.alias))
        for credentials in shown:
            assert deployed.ask(joined, credentials).head


def test_a_revoked_device_is_refused_through_nginx(deployed, device, membership, monkeypatch):
    assert enrol.follow(device.database, deployed.federation.world) is not None
    deployed.federation.enroller.revoke(membership.alias)
    with pytest.raises(AdmissionError):
        enrol.follow(device.database, deployed.federation.world)
    with pytest.raises(AdmissionError):
        fetch_newest(device.home, clock=time.time)
    monkeypatch.setattr(Enroller, "_enrolled", lambda self, alias: self.registry.device(alias))
    assert membership.alias in enrol.follow(device.database, deployed.federation.world).revoked


# Which TLS


def version_spoken(port, most):
    """The TLS version that nginx agrees to with a client that speaks `most` and less."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode, context.maximum_version = False, ssl.CERT_NONE, most
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((HOST, port), timeout=10) as plain, context.wrap_socket(plain) as wrapped:
        return wrapped.version()


def test_tls_1_2_is_refused_at_both_ports(deployed):
    ports = (deployed.front.calls, deployed.front.fleet)
    with deployed.nginx():
        for port in ports:
            assert version_spoken(port, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
            with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                version_spoken(port, ssl.TLSVersion.TLSv1_2)
    with deployed.nginx(OLD_TLS):
        assert [version_spoken(port, ssl.TLSVersion.TLSv1_2) for port in ports] == ["TLSv1.2", "TLSv1.2"]


# What is reached of Flower, and by whom


def answer(deployed, path, method="POST"):
    """The status that the fleet's port answers a path with, sent as it is written."""
    context = ssl.create_default_context(cadata=deployed.tls.pem.decode())
    connection = http.client.HTTPSConnection(HOST, deployed.front.fleet, context=context, timeout=20)
    try:
        connection.putrequest(method, path)
        connection.putheader("Content-Length", "0")
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


ELSEWHERE = (
    "/v1/control/list-nodes", "/v1/control/start-run", "/v1/runtime/acquire-task", "/", "/health", "/docs", "/openapi.json",
    "/v1/fleet/../control/list-nodes", "/v1/fleet/%2e%2e/control/list-nodes", "/v1/control/../fleet/pull-messages",
    "/v1/fleet/..%2fcontrol/list-nodes", "//v1/control/list-nodes", "/v1/fleet//pull-messages", "/v1/fleet/pull-messages?a=b",
    "/v1/Control/list-nodes", "/v1/fleet/", "/v1/fleet", "/earmark.v1.Door/Greet",
)  # fmt: skip


def test_of_flower_only_the_fleet_interface_is_reached(deployed, superlink):
    with deployed.nginx():
        assert answer(deployed, "/v1/fleet/pull-messages") == 415  # Flower itself, to an empty request
        assert {path: status for path in ELSEWHERE if (status := answer(deployed, path)) != 404} == {}
        assert answer(deployed, "/v1/fleet/pull-messages", method="GET") == 403
        with pytest.raises(NetworkError), control_at(deployed, deployed.front.fleet) as control:
            control.node_ids()
    with deployed.nginx(EVERY_PATH):
        assert answer(deployed, "/v1/control/list-nodes") != 404
        assert answer(deployed, "/v1/runtime/acquire-task") != 404
        with control_at(deployed, deployed.front.fleet) as control:
            control.node_ids()


def test_our_grpc_is_not_at_the_fleets_port_nor_flower_at_ours(deployed, membership):
    with open_channel(Address(HOST, deployed.front.fleet), membership.ca_pem) as channel, pytest.raises(ProtocolError):
        call(channel, "Door", "Greet", Hello(PROTO), Root)
    with open_channel(membership.address, membership.ca_pem) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/v1/fleet/pull-messages")(b"", timeout=10)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.fixture
def superlink(deployed):
    """Wait until the SuperLink answers."""
    until_s = time.monotonic() + 60
    while True:
        try:
            with control_at(deployed, deployed.front.superlink) as control:
                return control.node_ids()
        except NetworkError:
            assert time.monotonic() < until_s
            time.sleep(0.5)


def control_at(deployed, port):
    from earmark_server.flower import Control

    return Control(f"{HOST}:{port}", deployed.tls.pem)


def status(deployed, node_key):
    """What the SuperLink says of a node: online, offline, registered, or nothing."""
    from flwr.proto.control_pb2 import ListNodesRequest

    with control_at(deployed, deployed.front.superlink) as control:
        for node in control._client.ListNodes(ListNodesRequest()).nodes_info:
            if load_pem_public_key(node.public_key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == node_key:
                return node.status
    return None


def wait_for(check, seconds=60):
    until_s = time.monotonic() + seconds
    while not check() and time.monotonic() < until_s:
        time.sleep(0.5)
    return check()


def test_a_supernode_connects_through_nginx_an_unregistered_one_and_a_revoked_one_do_not(deployed, superlink, membership):
    key = membership.keys.node.public
    assert wait_for(lambda: status(deployed, key) == "registered")  # `serve` settles who joined
    fleet = Address(HOST, deployed.front.fleet)
    with running_node(membership, fleet) as (_, node):
        assert wait_for(lambda: status(deployed, key) == "online")
        assert node.poll() is None
    stranger = replace(membership, keys=replace(membership.keys, node=NodeKey.create()))
    with running_node(stranger, fleet) as (_, node):
        assert wait_for(lambda: node.poll() is not None)
        assert node.returncode
    assert status(deployed, stranger.keys.node.public) is None
    with control_at(deployed, deployed.front.superlink) as control:
        control.register(stranger.keys.node.public)  # the control: it is the missing registration that shut it out
    with running_node(stranger, fleet) as (_, node):
        assert wait_for(lambda: status(deployed, stranger.keys.node.public) == "online")
    deployed.federation.enroller.revoke(membership.alias)
    assert wait_for(lambda: status(deployed, key) not in {"online", "offline", "registered"})
    with running_node(membership, fleet) as (_, node):
        assert wait_for(lambda: node.poll() is not None)
        assert node.returncode


# How much, and how often


def test_a_long_request_stops_at_nginx(deployed, membership):
    reached = []
    deployed.federation.service._callers = lambda context: reached.append(context) or proxied_caller(context)
    try:
        for size in (65 << 10, 1 << 20):
            with open_channel(membership.address, membership.ca_pem) as channel, pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary("/earmark.v1.Door/Greet")(bytes(size), timeout=10)
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reached == []
    finally:
        deployed.federation.service._callers = proxied_caller


def announcement(objects):
    """What a node's announcement of an answer looks like, that is made of so many objects."""
    from flwr.proto.fleet_pb2 import PushMessagesRequest
    from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
    from flwr.proto.node_pb2 import Node

    names, most = [os.urandom(32).hex() for _ in range(objects)], 2**64 - 1
    metadata = Metadata(
        run_id=most,
        src_node_id=most,
        dst_node_id=1,
        message_id=names[0],
        reply_to_message_id=names[0],
        group_id="abcdef01",
        ttl=660.0,
        created_at=time.time(),
        message_type="train.sa1_advertise",
    )
    tree = ObjectTree(object_id=names[0], children=[ObjectTree(object_id=name) for name in names[1:]])
    return PushMessagesRequest(
        node=Node(node_id=most),
        messages_list=[Message(metadata=metadata)],
        message_object_trees=[tree],
        clientapp_runtime_list=[1.5],
    ).SerializeToString()


def pushed(deployed, call, body):
    """The status that the fleet's port answers a node's push with; Flower itself says that no node signed it."""
    context = ssl.create_default_context(cadata=deployed.tls.pem.decode())
    with closing(http.client.HTTPSConnection(HOST, deployed.front.fleet, context=context, timeout=60)) as connection:
        connection.request("POST", f"/v1/fleet/{call}", body, {"Content-Type": "application/protobuf"})
        return connection.getresponse().status


def test_an_answer_made_of_very_many_objects_stops_at_nginx(deployed, superlink):
    """Flower registers each of them while its database is locked for everybody."""
    honest, hostile = announcement(3), announcement(1000)
    assert 400 < len(honest) < 600
    with deployed.nginx():
        at_flower = pushed(deployed, "push-messages", honest)
        assert at_flower not in {404, 413, 415}
        assert pushed(deployed, "push-object", bytes(1 << 20)) not in {404, 413, 415}
        assert pushed(deployed, "push-messages", hostile) == pushed(deployed, "push-object", bytes(3 << 20)) == 413
        assert pushed(deployed, "send-node-heartbeat", hostile) == 413
    with deployed.nginx((("client_max_body_size 2k;", "client_max_body_size 2m;"),)):
        assert pushed(deployed, "push-messages", hostile) == at_flower


def greet_often(deployed, count):
    """Call so many times in a row; return how many were refused as too many."""
    busy = 0
    with open_channel(Address(HOST, deployed.front.calls), deployed.tls.pem) as channel:
        for _ in range(count):
            try:
                call(channel, "Door", "Greet", Hello(PROTO), Root)
            except BusyError:
                busy += 1
    return busy


def test_calling_too_often_is_held_back_by_nginx(deployed):
    with deployed.nginx():
        assert greet_often(deployed, 60) >= 20
    with deployed.nginx((("zone=earmark_calls burst=30", "zone=earmark_calls burst=3000"),)):
        assert greet_often(deployed, 60) == 0


@pytest.fixture
def joined(deployed, device):
    """A device that joined through the shipped nginx, which is gone again: for tests that start another one."""
    with deployed.nginx():
        return deployed.federation.join(device.database)
