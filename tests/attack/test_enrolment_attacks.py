"""T1, T2 and more against the running service, on loopback with its real TLS: who is refused, and that it is the check that refuses."""

import dataclasses
import os
import socket
import sqlite3
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key
from tests.support.federation import HOST, Federation
from tests.support.homes import new_database

from earmark_client.federation import enrol
from earmark_client.federation.identity import is_lab, load_membership, load_pending, node_key_file, store_membership
from earmark_server import enrolment
from earmark_server.authority import renew
from earmark_server.enrolment import Enroller
from earmark_server.limits import FAILURES_AN_HOUR, Limits
from earmark_server.registry import Registry
from earmark_server.service import EnrolmentService, Ports, proxied_caller, start_behind_nginx, start_direct
from earmark_server.tls import DAY_S, TlsAuthority
from earmark_shared.crypto.certificates import Certificate, Enrolment, issue, peek, read
from earmark_shared.crypto.enrol_log import Head, read_head, revoked_hash, sign_head
from earmark_shared.crypto.identities import Identity
from earmark_shared.crypto.nodes import NodeKey, public_openssh
from earmark_shared.enrolment import PROTO, RENEW_LABEL, Admission, Ask, Gone, Hello, News, Renewal, Renewed, Root
from earmark_shared.errors import (
    AdmissionError,
    BusyError,
    CertificateError,
    LogError,
    MalformedError,
    NetworkError,
    PolicyError,
    ProtocolError,
    SettingsError,
)
from earmark_shared.wire import channel as wire
from earmark_shared.wire.channel import Address, Credentials, call, fetch_certificate, open_channel
from earmark_shared.wire.codec import MESSAGE_SIZE_MOST, encode

ISSUE_CLIENT = TlsAuthority.issue_client


@pytest.fixture
def federation(tmp_path):
    made = Federation(tmp_path / "server")
    with made.serving():
        yield made
    made.close()


@pytest.fixture
def database(tmp_path):
    with new_database(tmp_path) as made:
        yield made


def ask(federation, membership, credentials):
    """Follow the log with other TLS credentials than the device's own."""
    with open_channel(membership.member_address, membership.ca_pem, credentials) as channel:
        return call(channel, "Members", "Follow", Ask(1), News)


def pass_days(federation, days):
    """Let time go by; the operator renews meanwhile."""
    federation.clock.shift_s += days * DAY_S
    renew(federation.authority, now_s=int(federation.clock()), entropy=os.urandom)


def everlasting(authority, node_key, alias, *, now_s):
    """A client certificate for tests that let years go by: gRPC looks at the machine's own clock."""
    return ISSUE_CLIENT(authority, node_key, alias, now_s=int(time.time()) - DAY_S, life_s=4000 * DAY_S)


def pem(der):
    return ssl.DER_cert_to_PEM_cert(der).encode()


def test_join_follow_leave(federation, database):
    membership = federation.join(database)
    assert load_membership(database) is not None
    enrolment = enrol.follow(database, federation.world)
    assert enrolment.authority == federation.authority.identity.public
    assert enrolment.revoked == frozenset()
    enrol.leave(database, federation.world)
    assert load_membership(database) is None
    assert federation.registry.revoked() == [membership.alias]
    with pytest.raises(AdmissionError):
        enrol.follow(database, federation.world)


def test_whoever_joins_twice_or_leaves_twice_is_told(federation, database):
    federation.join(database)
    with pytest.raises(AdmissionError):
        federation.join(database)
    enrol.leave(database, federation.world)
    with pytest.raises(AdmissionError):
        enrol.leave(database, federation.world)
    first = federation.registry.devices()[0].alias
    assert federation.join(database).alias != first


# T1: client certificates


def test_only_a_current_certificate_of_this_federation_is_let_in(federation, database, monkeypatch):
    membership = federation.join(database)
    key = membership.keys.node
    now_s, tls = int(federation.clock()), federation.authority.tls

    def shown(authority, **given):
        return Credentials(key.private_pem(), pem(authority.issue_client(key.public, membership.alias, **given)))

    assert ask(federation, membership, shown(tls, now_s=now_s)).head
    with pytest.raises(NetworkError):
        ask(federation, membership, shown(tls, now_s=now_s - 100 * DAY_S, life_s=DAY_S))
    with pytest.raises(NetworkError):
        ask(federation, membership, shown(tls, now_s=now_s + DAY_S))
    with pytest.raises(NetworkError):
        ask(federation, membership, shown(TlsAuthority.create(now_s=now_s), now_s=now_s))
    with pytest.raises(NetworkError):
        ask(federation, membership, None)


def test_at_the_door_members_methods_refuse_whoever_shows_no_certificate(federation, database):
    membership = federation.join(database)
    with open_channel(membership.address, membership.ca_pem, membership.credentials) as channel, pytest.raises(CertificateError):
        call(channel, "Members", "Follow", Ask(1), News)


def test_a_certificate_for_another_key_than_the_enrolled_one_is_refused(federation, database):
    membership, other = federation.join(database), NodeKey.create()
    forged = federation.authority.tls.issue_client(other.public, membership.alias, now_s=int(federation.clock()))
    with pytest.raises(AdmissionError):
        ask(federation, membership, Credentials(other.private_pem(), pem(forged)))


def test_a_revoked_device_is_out(federation, database, monkeypatch):
    membership = federation.join(database)
    federation.enroller.revoke(membership.alias)
    with pytest.raises(AdmissionError):
        enrol.follow(database, federation.world)
    with monkeypatch.context() as patched:
        patched.setattr(Enroller, "_enrolled", lambda self, alias: self.registry.device(alias))
        assert enrol.follow(database, federation.world).revoked == {membership.alias}
    enrol.leave(database, federation.world)
    assert load_membership(database) is None


def test_a_tls_certificate_is_renewed_before_it_ends_and_a_new_plan_key_is_learnt(federation, database):
    federation.clock.shift_s = -61 * DAY_S
    before = federation.join(database)
    federation.clock.shift_s = 0.0
    renew(federation.authority, now_s=int(federation.clock()), entropy=os.urandom)
    enrol.follow(database, federation.world)
    after = load_membership(database)
    assert after.tls_certificate != before.tls_certificate
    assert after.root.plan_key != before.root.plan_key
    enrol.follow(database, federation.world)
    assert load_membership(database).tls_certificate == after.tls_certificate
    federation.clock.shift_s = 31 * DAY_S
    with pytest.raises(CertificateError):
        enrol.follow(database, federation.world)
    assert load_membership(database).root == after.root


def test_a_device_that_follows_stays_enrolled_from_year_to_year_and_can_still_leave(federation, database, monkeypatch):
    monkeypatch.setattr(TlsAuthority, "issue_client", everlasting)
    before = federation.join(database)
    for _ in range(9):
        pass_days(federation, 60)
        enrol.follow(database, federation.world)
        known, now_s = load_membership(database), int(federation.clock())
        read(known.certificate, Enrolment(known.root.authority), now_s=now_s + 29 * DAY_S)
    assert known.certificate != before.certificate
    assert (known.alias, known.keys.identity.public) == (before.alias, before.keys.identity.public)
    enrol.leave(database, federation.world)
    assert federation.registry.revoked() == [before.alias]


def test_a_device_whose_renewal_was_lost_on_the_way_can_leave(federation, database, monkeypatch):
    monkeypatch.setattr(TlsAuthority, "issue_client", everlasting)
    known = federation.join(database)
    pass_days(federation, 340)
    device = federation.registry.device(known.alias)
    federation.enroller.renew(Renewal(known.alias, known.keys.identity.sign(RENEW_LABEL, known.alias)), device)
    assert federation.registry.device(known.alias).certificate != load_membership(database).certificate
    enrol.leave(database, federation.world)
    assert load_membership(database) is None
    assert federation.registry.revoked() == [known.alias]


@pytest.mark.parametrize(
    "lie", ["another authority", "another alias", "another key", "ended", "ends sooner", "older epoch", "rubbish"]
)
def test_a_renewed_certificate_that_is_not_this_devices_is_not_taken(federation, database, monkeypatch, lie):
    monkeypatch.setattr(TlsAuthority, "issue_client", everlasting)
    known = federation.join(database)
    pass_days(federation, 340)
    now_s, honest = int(federation.clock()), peek(known.certificate)
    changed = {"another alias": {"alias": bytes(16)}, "another key": {"identity": Identity.create(os.urandom).public},
               "ended": {"not_after_s": now_s - 1}, "ends sooner": {"not_after_s": now_s + DAY_S},
               "older epoch": {"epoch": 0}}.get(lie, {})  # fmt: skip
    later = dataclasses.replace(honest, not_after_s=now_s + 365 * DAY_S)
    signer = Identity.create(os.urandom) if lie == "another authority" else federation.authority.identity
    forged = bytes(129) if lie == "rubbish" else issue(signer, dataclasses.replace(later, **changed))
    with monkeypatch.context() as patched, pytest.raises(CertificateError):
        answer_with(patched, Renewed, cert=forged)
        enrol.follow(database, federation.world)
    assert load_membership(database).certificate == known.certificate
    enrol.follow(database, federation.world)
    assert peek(load_membership(database).certificate).not_after_s > honest.not_after_s


# The wrong server


def test_a_server_that_the_invitation_does_not_name_learns_nothing(federation, database, tmp_path, monkeypatch):
    evil = Federation(tmp_path / "evil")
    evil.authority = dataclasses.replace(
        evil.authority, identity=Identity.create(os.urandom), tls=TlsAuthority.create(now_s=int(evil.clock()))
    )
    renew(evil.authority, now_s=int(evil.clock()), entropy=os.urandom)
    evil.enroller.authority = evil.authority
    heard = []
    monkeypatch.setattr(evil.enroller, "admit", heard.append)
    with evil.serving():
        lured = enrol.Invitation(Address(HOST, evil.ports.join), federation.fingerprint)
        token = federation.enroller.invite()
        with pytest.raises(AdmissionError):
            enrol.join(database, lured, token, federation.world, as_lab=False)
        assert heard == []
        assert load_pending(database, token) is None
        with monkeypatch.context() as patched, pytest.raises(NetworkError):
            patched.setattr(enrol, "check_root", lambda *_: None)
            enrol.join(database, lured, token, federation.world, as_lab=False)
        assert [join.token for join in heard] == [token]
    evil.close()


@contextmanager
def tls_server(credentials, tmp_path, versions):
    """A TLS server of the given (least, most) versions that answers nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = versions
    (tmp_path / "chain.pem").write_bytes(credentials.key_pem + credentials.cert_pem)
    context.load_cert_chain(tmp_path / "chain.pem")

    def answer():
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                context.wrap_socket(plain, server_side=True).close()
            except OSError:
                plain.close()

    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=answer, daemon=True).start()
        yield Address(HOST, listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def test_a_device_meets_a_server_by_tls_1_3_only(federation, tmp_path, monkeypatch):
    credentials = federation.authority.tls.issue_server((HOST,), now_s=int(federation.clock()))
    old, new = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    with tls_server(credentials, tmp_path, (old, old)) as address:
        with pytest.raises(NetworkError):
            fetch_certificate(address)
        monkeypatch.setattr(wire, "ssl", SimpleNamespace(**(vars(ssl) | {"TLSVersion": SimpleNamespace(TLSv1_3=old)})))
        assert fetch_certificate(address) == credentials.cert_pem
        monkeypatch.undo()
    with tls_server(credentials, tmp_path, (new, new)) as address:
        assert fetch_certificate(address) == credentials.cert_pem


def test_our_own_listener_still_takes_tls_1_2_which_is_why_nginx_stands_before_it(federation):
    """Not a promise: gRPC for Python has no switch. docs/known-limits.md says so; the nginx test shows 1.2 refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((HOST, federation.ports.join)) as plain, context.wrap_socket(plain) as wrapped:
        assert wrapped.version() == "TLSv1.2"


# What a server could say


def answer_with(monkeypatch, kind, **changed):
    """Let the server's reply of one kind arrive changed."""
    honest = enrol.call

    def lying(channel, service, method, request, reply):
        answer = honest(channel, service, method, request, reply)
        return dataclasses.replace(answer, **changed) if reply is kind else answer

    monkeypatch.setattr(enrol, "call", lying)


@pytest.mark.parametrize(
    ("field", "check"),
    [
        ("cert", "read"),
        ("tls_cert", "_check_tls"),
        ("head", "read_head"),
        ("index", "verify_inclusion"),
        ("path", "verify_inclusion"),
    ],
)
def test_a_server_that_does_not_prove_admission_is_not_believed(federation, database, tmp_path, monkeypatch, field, check):
    federation.join(database)
    lies = {"cert": bytes(129), "tls_cert": b"\x30", "head": bytes(152), "index": 7, "path": bytes(64)}
    with new_database(tmp_path, "second.db") as second:
        token = federation.enroller.invite()
        with monkeypatch.context() as patched:
            answer_with(patched, Admission, **{field: lies[field]})
            with pytest.raises((CertificateError, LogError)):
                federation.join(second, token)
            assert load_membership(second) is None
        if check == "verify_inclusion":
            with monkeypatch.context() as patched:
                answer_with(patched, Admission, **{field: lies[field]})
                patched.setattr(enrol, check, lambda *_: None)
                federation.join(second, token)
        else:
            federation.join(second, token)


def test_certificates_for_somebody_elses_keys_are_not_taken(federation, database, monkeypatch):
    """A server that swaps what it issues: both certificates are genuine, but not this device's."""
    now_s = int(federation.clock())
    other, node = Identity.create(os.urandom), NodeKey.create()
    swapped = {
        "cert": issue(federation.authority.identity, Certificate(bytes(16), other.public, now_s + DAY_S, 1)),
        "tls_cert": federation.authority.tls.issue_client(node.public, bytes(16), now_s=now_s),
    }
    for field, lie in swapped.items():
        with monkeypatch.context() as patched, pytest.raises(CertificateError, match="another key"):
            answer_with(patched, Admission, **{field: lie})
            federation.join(database)
    with pytest.raises(CertificateError, match="expired"):
        past = Certificate(bytes(16), Identity.create(os.urandom).public, now_s - 1, 1)
        with monkeypatch.context() as patched:
            answer_with(patched, Admission, cert=issue(federation.authority.identity, past))
            federation.join(database)
    assert load_membership(database) is None


@pytest.mark.parametrize("older", ["at_s", "least_epoch"])
def test_a_head_never_goes_back(federation, database, monkeypatch, older):
    membership = federation.join(database)
    now = read_head(membership.head, membership.root.authority)
    stale = sign_head(federation.authority.identity, dataclasses.replace(now, **{older: getattr(now, older) - 1}))
    with monkeypatch.context() as patched, pytest.raises(LogError):
        answer_with(patched, News, head=stale)
        enrol.follow(database, federation.world)
    assert load_membership(database).head == membership.head


def rewrite_log(federation):
    """What an operator with the database in hand can do: make the first entry never have been."""
    with sqlite3.connect(federation.authority.places.registry) as raw:
        raw.execute("DROP TRIGGER log_no_update")
        raw.execute("UPDATE log SET entry = x'00' WHERE number = 0")
    raw.close()


def test_a_log_whose_past_was_rewritten_is_noticed_by_every_device(federation, database, tmp_path, monkeypatch):
    federation.join(database)
    with new_database(tmp_path, "second.db") as second:
        federation.join(second)
    rewrite_log(federation)
    with pytest.raises(LogError):
        enrol.follow(database, federation.world)
    monkeypatch.setattr(enrol, "verify_consistency", lambda *_: None)
    enrol.follow(database, federation.world)


def test_a_log_that_was_cut_is_noticed(federation, database, tmp_path):
    federation.join(database)
    membership = load_membership(database)
    longer = Head(5, bytes(32), 0, 1, revoked_hash(b""))
    with database.transaction():
        store_membership(database, dataclasses.replace(membership, head=sign_head(federation.authority.identity, longer)))
    with pytest.raises(LogError, match="has 1 entries, this device has seen 5") as caught:
        enrol.follow(database, federation.world)
    assert "backup" in caught.value.hint


def test_a_device_that_asks_while_another_is_revoked_gets_the_list_that_its_head_fixes(
    federation, database, tmp_path, monkeypatch
):
    """Another process revokes between what `follow` reads: `earmark-server revoke` beside `serve`."""
    federation.join(database)
    with new_database(tmp_path, "second.db") as second:
        other = federation.join(second).alias
    sign, left = enrolment.sign_head, [other]

    def revoke_meanwhile(*parts):
        if left:
            with Registry(federation.authority.places.registry) as registry:
                Enroller(federation.authority, registry, clock=federation.clock, entropy=os.urandom).revoke(left.pop())
        return sign(*parts)

    monkeypatch.setattr(enrolment, "sign_head", revoke_meanwhile)
    assert enrol.follow(database, federation.world).revoked == frozenset()
    assert enrol.follow(database, federation.world).revoked == {other}


def test_a_revocation_is_neither_hidden_nor_taken_back(federation, database, tmp_path, monkeypatch):
    federation.join(database)
    with new_database(tmp_path, "second.db") as second:
        gone = federation.join(second).alias
    federation.enroller.revoke(gone)
    with monkeypatch.context() as patched, pytest.raises(LogError):
        answer_with(patched, News, revoked=b"")
        enrol.follow(database, federation.world)
    assert enrol.follow(database, federation.world).revoked == {gone}
    with sqlite3.connect(federation.authority.places.registry) as raw:
        raw.execute("UPDATE devices SET revoked_s = NULL")
    raw.close()
    with pytest.raises(LogError):
        enrol.follow(database, federation.world)


def revoked_behind_an_old_answer(federation, database, tmp_path, monkeypatch, *, later_s):
    """A device is revoked, and from then on the server, which can't sign a head, repeats what it said before."""
    federation.join(database)
    with new_database(tmp_path, "stolen.db") as stolen:
        gone = federation.join(stolen)
    honest, said = enrol.call, []

    def replay(channel, service, method, request, reply):
        if reply is not News:
            return honest(channel, service, method, request, reply)
        said.append(said[0] if said else honest(channel, service, method, request, reply))
        return dataclasses.replace(said[-1], proof=b"") if len(said) > 1 else said[-1]

    monkeypatch.setattr(enrol, "call", replay)
    enrol.follow(database, federation.world)
    federation.enroller.revoke(gone.alias)
    federation.clock.shift_s = later_s
    return gone, lambda: enrol.follow(database, federation.world)


def test_a_revocation_is_not_hidden_behind_an_old_head(federation, database, tmp_path, monkeypatch):
    gone, follow_again = revoked_behind_an_old_answer(federation, database, tmp_path, monkeypatch, later_s=DAY_S)
    with pytest.raises(LogError, match="more than an hour old"):
        follow_again()
    monkeypatch.undo()
    assert follow_again().revoked == {gone.alias}


def test_control_without_a_bound_on_its_age_it_is(federation, database, tmp_path, monkeypatch):
    gone, follow_again = revoked_behind_an_old_answer(federation, database, tmp_path, monkeypatch, later_s=29 * DAY_S)
    monkeypatch.setattr(enrol, "HEAD_AGE_MOST_S", 10**9)
    enrolment = follow_again()
    assert read(gone.certificate, enrolment, now_s=int(federation.clock())).alias == gone.alias


@pytest.mark.parametrize("shift_s", [-1800, 1800])
def test_clocks_may_differ_by_half_an_hour(federation, database, shift_s):
    federation.join(database)
    world = enrol.World(lambda: federation.clock() + shift_s, os.urandom)
    assert enrol.follow(database, world).revoked == frozenset()


def test_leaving_is_believed_only_with_the_logs_word(federation, database, monkeypatch):
    federation.join(database)
    with monkeypatch.context() as patched, pytest.raises(LogError):
        answer_with(patched, Gone, index=0)
        enrol.leave(database, federation.world)
    assert load_membership(database) is not None
    enrol.leave(database, federation.world)
    assert load_membership(database) is None


# Faults


def test_a_join_whose_answer_was_lost_goes_on_with_the_same_token(federation, database, monkeypatch):
    honest, token = enrol.call, federation.enroller.invite()

    def cut(channel, service, method, request, reply):
        answer = honest(channel, service, method, request, reply)
        if method == "Admit":
            raise NetworkError
        return answer

    with monkeypatch.context() as patched, pytest.raises(NetworkError):
        patched.setattr(enrol, "call", cut)
        federation.join(database, token)
    first = federation.registry.devices()[0].alias
    assert load_pending(database, os.urandom(16)) is None
    assert federation.join(database, token).alias == first
    assert load_pending(database, token) is None


def test_a_join_that_failed_for_good_starts_afresh_with_another_invitation(federation, database, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(LogError):
        answer_with(patched, Admission, index=7)
        federation.join(database)
    federation.join(database)
    first, second = federation.registry.devices()
    assert first.identity != second.identity


def test_a_server_that_is_gone_is_a_network_error_and_nothing_is_deleted(federation, database, tmp_path):
    membership = federation.join(database)
    other = Federation(tmp_path / "other")
    with other.serving():
        address = Address(HOST, other.ports.join)
    with pytest.raises(NetworkError):
        fetch_certificate(address)
    nowhere = dataclasses.replace(membership, root=dataclasses.replace(membership.root, member_port=address.port))
    with database.transaction():
        store_membership(database, nowhere)
    for act in (lambda: enrol.leave(database, federation.world), lambda: enrol.follow(database, federation.world)):
        with pytest.raises(NetworkError):
            act()
    assert load_membership(database) is not None
    enrol.forget(database)
    assert load_membership(database) is None
    other.close()


def test_a_port_that_is_taken_is_said(federation):
    with pytest.raises(NetworkError):
        start_direct(federation.service, federation.enroller, Ports(HOST, federation.ports.join, 0))


# Malformed, oversized, too many


def send(federation, method, payload):
    with open_channel(federation.invitation.address, federation.authority.tls.pem) as channel:
        return channel.unary_unary(f"/earmark.v1.Door/{method}")(payload, timeout=10)


GREETING = encode(Hello(PROTO))


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff",
        b"\x08",
        GREETING + b"\x00",
        GREETING * 2,
        GREETING + b"\x98\x06\x01",
        b"\x08\x81\x00",
        os.urandom(100),
        bytes(MESSAGE_SIZE_MOST - 64),
    ],
    ids=["no message", "cut", "trailing", "field twice", "unknown field", "padded number", "noise", "huge"],
)
def test_malformed_messages_are_refused_with_a_code(federation, payload):
    assert send(federation, "Greet", GREETING)
    with pytest.raises(grpc.RpcError) as refused:
        send(federation, "Greet", payload)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_message_over_2_mib_never_reaches_our_code(federation, monkeypatch):
    monkeypatch.setattr(wire, "CHANNEL_OPTIONS", (("grpc.max_send_message_length", -1),))
    with pytest.raises(grpc.RpcError) as refused:
        send(federation, "Greet", bytes(MESSAGE_SIZE_MOST + 1))
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_method_that_does_not_exist_is_a_protocol_error(federation):
    with open_channel(federation.invitation.address, federation.authority.tls.pem) as channel, pytest.raises(ProtocolError):
        call(channel, "Door", "Open", Hello(PROTO), Root)


def test_a_reply_that_is_not_one_is_refused(federation):
    with open_channel(federation.invitation.address, federation.authority.tls.pem) as channel, pytest.raises(MalformedError):
        call(channel, "Door", "Greet", Hello(PROTO), News)


def test_guessing_tokens_shuts_the_guesser_out_and_nobody_who_is_in(federation, database, tmp_path):
    federation.join(database)
    with new_database(tmp_path, "thief.db") as thief:
        for _ in range(FAILURES_AN_HOUR):
            with pytest.raises(AdmissionError):
                federation.join(thief, os.urandom(16))
        with pytest.raises(BusyError):
            federation.join(thief)
        enrol.follow(database, federation.world)
        federation.clock.shift_s = 3601
        federation.join(thief)


@pytest.mark.parametrize("patience_s", [0.3, 60.0], ids=["held to a time", "control: with all the time in the world"])
def test_calls_that_never_say_anything_are_ended_and_keep_nobody_out(federation, monkeypatch, patience_s):
    monkeypatch.setattr(wire, "PATIENCE_S", patience_s)
    is_over = threading.Event()

    def silence():
        is_over.wait(30)
        yield from ()

    with open_channel(federation.invitation.address, federation.authority.tls.pem) as channel:
        silent = channel.stream_unary("/earmark.v1.Door/Greet")
        calls = [silent.future(silence()) for _ in range(wire.CALLS_MOST // 2)]  # as many as a connection carries
        with open_channel(federation.invitation.address, federation.authority.tls.pem) as second:
            calls += [second.stream_unary("/earmark.v1.Door/Greet").future(silence()) for _ in range(wire.CALLS_MOST // 2)]
            if patience_s > 1:
                time.sleep(1.0)  # until all of them have arrived
                with pytest.raises(grpc.RpcError) as refused:
                    send(federation, "Greet", GREETING)
                assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            else:
                assert {call.code() for call in calls} == {grpc.StatusCode.CANCELLED}
                assert send(federation, "Greet", GREETING)
            is_over.set()


def test_calling_too_often_is_held_back(federation):
    federation.service._limits = Limits(federation.clock, calls_a_minute=3)
    for _ in range(3):
        send(federation, "Greet", GREETING)
    with open_channel(federation.invitation.address, federation.authority.tls.pem) as channel, pytest.raises(BusyError):
        call(channel, "Door", "Greet", Hello(PROTO), Root)


def test_what_fails_inside_the_server_stays_there(federation, monkeypatch):
    def fail(_hello):
        raise ValueError("/srv/secret/path")

    monkeypatch.setattr(federation.enroller, "greet", fail)
    with pytest.raises(grpc.RpcError) as refused:
        send(federation, "Greet", GREETING)
    assert "secret" not in refused.value.details()


# Behind nginx


def test_behind_nginx_the_header_is_checked_as_tls_would_have(federation, database, tmp_path):
    membership = federation.join(database)
    service = EnrolmentService(federation.enroller, federation.limits, proxied_caller, clock=federation.clock)
    server = start_behind_nginx(service, tmp_path / "s")
    now_s, tls, key = int(federation.clock()), federation.authority.tls, membership.keys.node

    def follow(*headers):
        with grpc.insecure_channel(f"unix:{tmp_path / 's'}") as channel:
            method = channel.unary_unary("/earmark.v1.Members/Follow")
            return method(encode(Ask(1)), timeout=10, metadata=(("x-earmark-peer", "192.0.2.1"), *headers))

    def header(der):
        return ("x-earmark-client-cert", quote(pem(der).decode(), safe=""))

    try:
        assert follow(header(membership.tls_certificate))
        wrong = [
            (),
            (header(tls.issue_client(key.public, membership.alias, now_s=now_s - 100 * DAY_S, life_s=DAY_S)),),
            (header(TlsAuthority.create(now_s=now_s).issue_client(key.public, membership.alias, now_s=now_s)),),
            (("x-earmark-client-cert", "%2D%2Dnonsense"),),
            (header(tls.issue_client(NodeKey.create().public, membership.alias, now_s=now_s)),),
        ]
        for headers in wrong:
            with pytest.raises(grpc.RpcError) as refused:
                follow(*headers)
            assert refused.value.code() in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
    finally:
        server.stop(0).wait()


# At home


def test_a_lab_home_stays_one(tmp_path, database, federation):
    lab = Federation(tmp_path / "lab", is_lab=True)
    with lab.serving():
        with pytest.raises(PolicyError):
            lab.join(database)
        assert not is_lab(database)
        assert database.federation_value("pending.identity") is None  # refused here, before anything was sent
        assert lab.join(database, as_lab=True).is_lab
        enrol.leave(database, lab.world)
        assert is_lab(database)
        for other in (lab, federation):
            with pytest.raises(PolicyError):
                other.join(database)
        assert lab.join(database, as_lab=True).is_lab
    lab.close()


def test_a_node_reads_its_key_from_a_file_that_is_on_no_disk(federation, database):
    keys = federation.join(database).keys
    with node_key_file(keys) as descriptor:
        assert Path(f"/proc/self/fd/{descriptor}").readlink().name.startswith("memfd:")
        command = ["cat", f"/dev/fd/{descriptor}"]
        read = subprocess.run(command, pass_fds=[descriptor], capture_output=True, check=True).stdout
        assert subprocess.run(command, capture_output=True, check=False).returncode  # nobody else has it
        found = load_ssh_private_key(read, None).public_key()
        assert found.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) == public_openssh(keys.node.public)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(descriptor, 1)


@pytest.mark.parametrize(
    "url",
    ["", "https://h:1/" + "0" * 64, "earmark://h:1/" + "0" * 63, "earmark://h:0/" + "0" * 64, "earmark://h:70000/" + "0" * 64,
     "earmark://h/" + "0" * 64, "earmark://a b:1/" + "0" * 64],
)  # fmt: skip
def test_half_an_address_is_refused(url):
    with pytest.raises(SettingsError):
        enrol.read_invitation(url)
    with pytest.raises(SettingsError):
        enrol.read_token("0" * 31)
    assert str(enrol.read_invitation("earmark://[::1]:7443/" + "0" * 64).address) == "[::1]:7443"


def test_read_head_refuses_what_is_not_one(federation):
    for wrong in (b"", bytes(152), bytes(151)):
        with pytest.raises(LogError):
            read_head(wrong, federation.authority.identity.public)
