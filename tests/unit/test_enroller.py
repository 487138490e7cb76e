"""Admission, without a network: tokens, proofs, the log, the registry on disk. Each refusal with the control that it is the check."""

import dataclasses
import os
import sqlite3
import stat

import pytest
from tests.support.federation import Federation

from earmark_server import enrolment
from earmark_server.authority import create_authority, open_authority, open_plan_key, renew
from earmark_server.limits import FAILURES_AN_HOUR, Limits
from earmark_server.registry import Invitation, Registry
from earmark_server.settings import ServerSettings, read_settings
from earmark_shared.crypto.certificates import Enrolment, read
from earmark_shared.crypto.enrol_log import Change, Entry, cert_hash, check_revoked, read_head
from earmark_shared.crypto.identities import Identity
from earmark_shared.crypto.merkle import leaf_hash, verify_consistency, verify_inclusion
from earmark_shared.crypto.nodes import NodeKey, load_node, public_openssh
from earmark_shared.enrolment import (
    LEAVE_LABEL,
    PROTO,
    RENEW_LABEL,
    Ask,
    Hello,
    Leave,
    Renewal,
    check_root,
    read_plan_key,
    sign_join,
    unpack,
)
from earmark_shared.errors import (
    AdmissionError,
    BusyError,
    CertificateError,
    HomeExistsError,
    LogError,
    PhaseError,
    PolicyError,
    ProtocolError,
    SettingsError,
    SignatureError,
    StoreError,
)

HOUR_S, DAY_S = 3600, 86_400


@pytest.fixture
def federation(tmp_path):
    made = Federation(tmp_path / "server")
    yield made
    made.close()


def enrolled(federation, **given):
    join, keys = federation.request(federation.enroller.invite(), **given)
    return federation.enroller.admit(join), keys


def test_an_invited_device_gets_certificates_and_proof_that_the_log_holds_them(federation):
    admission, (identity, _) = enrolled(federation)
    authority = federation.authority.identity.public
    certificate = read(admission.cert, Enrolment(authority), now_s=int(federation.clock()))
    assert certificate.identity == identity.public
    head = read_head(admission.head, authority)
    entry = Entry(Change.JOINED, certificate.alias, cert_hash(admission.cert), admission.joined_s, is_lab=False)
    verify_inclusion(leaf_hash(entry.encode()), admission.index, head.size, unpack(admission.path), head.root)


def test_an_alias_is_new_for_every_enrolment(federation):
    assert len({enrolled(federation)[0].cert[1:17] for _ in range(5)}) == 5


def test_a_token_lets_in_one_device(federation, monkeypatch):
    token = federation.enroller.invite()
    federation.enroller.admit(federation.request(token)[0])
    with pytest.raises(AdmissionError):
        federation.enroller.admit(federation.request(token)[0])
    monkeypatch.setattr(Registry, "invitation", lambda *_: Invitation(2**40, None))
    federation.enroller.admit(federation.request(token)[0])


def test_a_token_ends_after_a_day(federation, monkeypatch):
    token = federation.enroller.invite()
    federation.clock.shift_s = DAY_S + 1
    with pytest.raises(AdmissionError):
        federation.enroller.admit(federation.request(token)[0])
    monkeypatch.setattr(Registry, "invitation", lambda *_: Invitation(2**40, None))
    federation.enroller.admit(federation.request(token)[0])


def test_a_made_up_token_lets_nobody_in(federation):
    with pytest.raises(AdmissionError):
        federation.enroller.admit(federation.request(os.urandom(16))[0])


def test_the_same_device_may_ask_again_with_its_token_and_only_it(federation):
    token = federation.enroller.invite()
    first, keys = federation.request(token)
    alias = federation.enroller.admit(first).cert[1:17]
    again = federation.enroller.admit(federation.request(token, keys=keys)[0])
    assert again.cert[1:17] == alias
    assert len(federation.registry.devices()) == len(federation.registry.log()) == 1
    for half in ((keys[0], NodeKey.create()), (Identity.create(os.urandom), keys[1])):
        with pytest.raises(AdmissionError):
            federation.enroller.admit(federation.request(token, keys=half)[0])
    federation.enroller.revoke(alias)
    with pytest.raises(AdmissionError):
        federation.enroller.admit(federation.request(token, keys=keys)[0])


def test_keys_that_were_enrolled_never_come_back(federation):
    admission, keys = enrolled(federation)
    federation.enroller.revoke(admission.cert[1:17])
    with pytest.raises(AdmissionError):
        enrolled(federation, keys=keys)


@pytest.mark.parametrize("field", ["identity", "node_key", "token", "is_lab"])
def test_a_stolen_request_is_worth_nothing_without_its_keys(federation, monkeypatch, field):
    """The thief read the victim's request and puts something of its own into it."""
    stolen, _ = federation.request(federation.enroller.invite())
    own = {"identity": Identity.create(os.urandom).public, "node_key": NodeKey.create().public,
           "token": federation.enroller.invite(), "is_lab": True}[field]  # fmt: skip
    forged = dataclasses.replace(stolen, **{field: own})
    with pytest.raises(SignatureError):
        federation.enroller.admit(forged)
    monkeypatch.setattr(enrolment, "verify_join", lambda *_: None)
    again = dataclasses.replace(forged, challenge=federation.enroller.greet(Hello(PROTO)).challenge)
    if field == "is_lab":
        with pytest.raises(PolicyError):
            federation.enroller.admit(again)
    else:
        federation.enroller.admit(again)


@pytest.mark.parametrize("field", ["identity_sig", "node_sig"])
def test_both_keys_must_be_proved(federation, field):
    join, _ = federation.request(federation.enroller.invite())
    other, _ = federation.request(join.token)
    with pytest.raises(SignatureError):
        federation.enroller.admit(dataclasses.replace(join, **{field: getattr(other, field)}))


def test_a_proof_for_another_federation_is_none_here(federation):
    stolen, (identity, node) = federation.request(federation.enroller.invite())
    with pytest.raises(SignatureError):
        federation.enroller.admit(sign_join(stolen, os.urandom(32), identity, node))


def test_a_request_is_answered_once(federation, monkeypatch):
    join, _ = federation.request(federation.enroller.invite())
    federation.enroller.admit(join)
    with pytest.raises(PhaseError):
        federation.enroller.admit(join)
    monkeypatch.setattr(enrolment.Enroller, "_answer", lambda *_: None)
    federation.enroller.admit(join)


def test_a_challenge_is_short_lived_and_memory_for_them_is_bounded(federation, monkeypatch):
    join, _ = federation.request(federation.enroller.invite())
    federation.clock.shift_s = enrolment.CHALLENGE_LIFE_S + 1
    with pytest.raises(PhaseError):
        federation.enroller.admit(join)
    monkeypatch.setattr(enrolment, "CHALLENGES_MOST", 20)
    for _ in range(30):
        federation.enroller.greet(Hello(PROTO))
    assert len(federation.enroller._challenges) == 20
    with pytest.raises(ProtocolError):
        federation.enroller.greet(Hello(PROTO + 1))


def test_a_node_key_must_be_on_a_curve_that_flower_takes():
    from cryptography.hazmat.primitives.asymmetric import ec, x448
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    for key in (ec.generate_private_key(ec.SECP256K1()), x448.X448PrivateKey.generate()):
        with pytest.raises(SignatureError):
            load_node(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    good = NodeKey.create()
    assert public_openssh(good.public).startswith(b"ecdsa-sha2-nistp384 ")
    assert good.private_openssh().startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    for bad in (b"", good.public + b"\x00", good.public[:-1]):
        with pytest.raises(SignatureError):
            load_node(bad)


def test_labs_and_others_do_not_mix(tmp_path, federation):
    with pytest.raises(PolicyError):
        enrolled(federation, as_lab=True)
    lab = Federation(tmp_path / "lab", is_lab=True)
    with pytest.raises(PolicyError):
        enrolled(lab)
    enrolled(lab, as_lab=True)
    assert lab.registry.devices()[0].is_lab
    assert lab.authority.root(bytes(32)).fingerprint() != federation.fingerprint
    lab.close()


def test_who_leaves_is_revoked_in_the_log_and_in_the_list(federation):
    admission, (identity, _) = enrolled(federation)
    other, _ = enrolled(federation)
    device = federation.registry.device(admission.cert[1:17])
    before = read_head(other.head, federation.authority.identity.public)
    with pytest.raises(SignatureError):
        federation.enroller.quit(Leave(device.alias, Identity.create(os.urandom).sign(LEAVE_LABEL, device.alias)), device)
    gone = federation.enroller.quit(Leave(device.alias, identity.sign(LEAVE_LABEL, device.alias)), device)
    head = read_head(gone.head, federation.authority.identity.public)
    entry = Entry(Change.REVOKED, device.alias, cert_hash(admission.cert), gone.left_s, is_lab=False)
    verify_inclusion(leaf_hash(entry.encode()), gone.index, head.size, unpack(gone.path), head.root)
    news = federation.enroller.follow(Ask(before.size))
    after = read_head(news.head, federation.authority.identity.public)
    verify_consistency(before.size, before.root, after.size, after.root, unpack(news.proof))
    check_revoked(after, news.revoked)
    assert news.revoked == device.alias
    with pytest.raises(LogError):
        check_revoked(after, b"")
    with pytest.raises(AdmissionError):
        federation.enroller.revoke(device.alias)
    longer = federation.enroller.follow(Ask(99))
    with pytest.raises(LogError):
        verify_consistency(99, bytes(32), after.size, after.root, unpack(longer.proof))


def test_only_the_identity_renews(federation):
    admission, (identity, node) = enrolled(federation)
    device = federation.registry.device(admission.cert[1:17])
    assert federation.enroller.renew(Renewal(device.alias, identity.sign(RENEW_LABEL, device.alias)), device).tls_cert
    with pytest.raises(SignatureError):
        federation.enroller.renew(Renewal(device.alias, identity.sign(LEAVE_LABEL, device.alias)), device)
    with pytest.raises(AdmissionError):
        federation.enroller.member(device.alias, NodeKey.create().public)
    assert federation.enroller.member(device.alias, node.public) == device


def test_a_renewal_makes_a_new_enrolment_certificate_once_half_of_the_old_one_is_over(federation):
    admission, (identity, _) = enrolled(federation)
    alias, authority = admission.cert[1:17], federation.authority.identity.public
    request = Renewal(alias, identity.sign(RENEW_LABEL, alias))
    federation.clock.shift_s = 182 * DAY_S
    assert federation.enroller.renew(request, federation.registry.device(alias)).cert == admission.cert
    federation.clock.shift_s = 400 * DAY_S
    renewed = federation.enroller.renew(request, federation.registry.device(alias)).cert
    certificate = read(renewed, Enrolment(authority), now_s=int(federation.clock()) + 364 * DAY_S)
    assert (certificate.alias, certificate.identity) == (alias, identity.public)
    assert federation.enroller.renew(request, federation.registry.device(alias)).cert == renewed
    assert len(federation.registry.log()) == 1
    device = federation.registry.device(alias)
    federation.enroller.revoke(alias)
    with pytest.raises(AdmissionError):
        federation.enroller.renew(request, device)


def test_flower_is_told_of_a_node_once_and_again_when_it_goes(federation):
    alias = enrolled(federation)[0].cert[1:17]
    assert [device.alias for device in federation.registry.unsettled_nodes()] == [alias]
    federation.registry.set_node(alias, is_node=True)
    assert federation.registry.unsettled_nodes() == []
    federation.enroller.revoke(alias)
    assert [device.alias for device in federation.registry.unsettled_nodes()] == [alias]


def test_the_log_on_disk_only_grows(federation):
    enrolled(federation)
    with sqlite3.connect(federation.authority.places.registry) as raw:
        for statement in ("UPDATE log SET entry = x'00'", "DELETE FROM log"):
            with pytest.raises(sqlite3.IntegrityError):
                raw.execute(statement)
    raw.close()


def test_a_token_is_on_no_disk_and_no_file_can_be_read_by_others(federation):
    token = federation.enroller.invite()
    for path in federation.authority.places.folder.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o077 == 0 or path.name.endswith(("-wal", "-shm")), path
        if path.is_file():
            assert token not in path.read_bytes()
            assert token.hex().encode() not in path.read_bytes()


def test_an_invitation_that_failed_leaves_nothing_behind(federation, monkeypatch):
    token = federation.enroller.invite()
    monkeypatch.setattr(Registry, "use_invitation", lambda *_: federation.registry._do("NONSENSE"))
    with pytest.raises(StoreError):
        federation.enroller.admit(federation.request(token)[0])
    assert federation.registry.devices() == federation.registry.log() == []


def test_a_registry_that_was_lost_is_not_replaced_by_an_empty_one(federation):
    places = federation.authority.places
    enrolled(federation)
    federation.close()
    kept = places.registry.read_bytes()
    with pytest.raises(StoreError):
        Registry.create(places.registry)
    for lost in (places.registry.unlink, lambda: places.registry.write_bytes(b"")):
        lost()
        for read_only in (False, True):
            with pytest.raises(StoreError, match=r"registry\.db") as caught:
                Registry(places.registry, read_only=read_only)
            assert "backup" in caught.value.hint
    places.registry.write_bytes(kept)
    with Registry(places.registry) as registry:
        assert len(registry.devices()) == 1


def test_authorities_are_apart_and_made_once(tmp_path, federation):
    folder = federation.authority.places.folder
    with pytest.raises(HomeExistsError):
        create_authority(folder, ServerSettings(), now_s=0, entropy=os.urandom)
    plan, enrolment_key = open_plan_key(folder), open_authority(folder).identity
    assert plan.public != enrolment_key.public
    now_s = int(federation.clock())
    assert read_plan_key(federation.authority.signed_plan_key(), enrolment_key.public, now_s=now_s) == plan.public
    fingerprint = federation.fingerprint
    renew(federation.authority, now_s=now_s, entropy=os.urandom)
    assert open_plan_key(folder).public != plan.public
    assert federation.fingerprint == fingerprint
    with pytest.raises(CertificateError):
        read_plan_key(federation.authority.signed_plan_key(), enrolment_key.public, now_s=now_s + 31 * DAY_S)
    with pytest.raises(CertificateError):
        read_plan_key(federation.authority.signed_plan_key(), plan.public, now_s=now_s)


@pytest.mark.parametrize("name", ["authority/enrolment.key", "tls/ca.key", "tls/ca.pem"])
@pytest.mark.parametrize("rubbish", [b"", b"x"])
def test_a_damaged_key_is_named(federation, name, rubbish):
    folder = federation.authority.places.folder
    (folder / name).write_bytes(rubbish)
    with pytest.raises(StoreError, match=name.rpartition("/")[2]) as caught:
        open_authority(folder)
    assert "backup" in caught.value.hint
    (folder / "aggregator" / "plan.key").write_bytes(rubbish)
    with pytest.raises(StoreError, match=r"plan\.key"):
        open_plan_key(folder)


def test_the_release_root_is_part_of_what_an_invitation_pins(federation):
    before = federation.fingerprint
    federation.authority.places.tuf_root.write_bytes(b'{"signed": {}}')
    root = federation.authority.root(bytes(32))
    check_root(root, federation.fingerprint)
    with pytest.raises(AdmissionError):
        check_root(root, before)


@pytest.mark.parametrize("text", ["port = '7'", "color = 1", "is_lab = 1", "host = [", "port = true", "port = 70000",
                                  "port = -1", "member_port = 65536", 'host = "a b"'])  # fmt: skip
def test_a_settings_file_that_says_something_unknown_is_refused(tmp_path, text):
    (tmp_path / "server.toml").write_text(text)
    (tmp_path / "server.toml").chmod(0o600)
    with pytest.raises(SettingsError):
        read_settings(tmp_path)
    with pytest.raises(SettingsError):
        read_settings(tmp_path / "nowhere")


def test_limits_hold_back_calls_and_shut_out_who_is_often_wrong():
    now = [0.0]
    limits = Limits(lambda: now[0], calls_a_minute=3)
    for _ in range(3):
        limits.admit("a")
    with pytest.raises(BusyError):
        limits.admit("a")
    limits.admit("b")
    now[0] = 61.0
    limits.admit("a")
    for _ in range(FAILURES_AN_HOUR):
        limits.fail("a")
    now[0] = 61.0 + HOUR_S - 1
    with pytest.raises(BusyError):
        limits.admit("a")
    limits.admit("b")
    now[0] = 61.0 + HOUR_S
    limits.admit("a")


def test_failures_spread_over_hours_block_nobody_and_memory_is_bounded(monkeypatch):
    now = [0.0]
    limits = Limits(lambda: now[0])
    for step in range(20):
        now[0] = step * HOUR_S / 4
        limits.fail("slow")
    limits.admit("slow")
    monkeypatch.setattr("earmark_server.limits.PEERS_MOST", 10)
    for peer in range(50):
        limits.admit(peer)
    assert len(limits._peers) == 10
