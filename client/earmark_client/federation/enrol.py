"""Joining a federation, following its enrolment log, and leaving it.

    membership = join(database, read_invitation("earmark://HOST:PORT/FINGERPRINT"), token, Joining(is_lab=False, ...))
    enrolment = follow(database, world)  # who is in and who is out, for SA1's checks
    leave(database, world)

The invitation's fingerprint is the only thing trusted at the start. Whatever server answers must show the root that it names;
everything after that is checked against this root: TLS, the certificate, the log's head, the proof that the log holds us.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from earmark_client.federation.identity import (
    DeviceKeys,
    Membership,
    forget_membership,
    is_lab,
    load_membership,
    load_pending,
    record_lab,
    store_membership,
    store_pending,
)
from earmark_shared.crypto.certificates import Enrolment, peek, read
from earmark_shared.crypto.enrol_log import Change, Entry, Head, cert_hash, check_revoked, read_head
from earmark_shared.crypto.merkle import leaf_hash, verify_consistency, verify_inclusion
from earmark_shared.crypto.secrets import Entropy
from earmark_shared.enrolment import (
    LEAVE_LABEL,
    PROTO,
    RENEW_LABEL,
    TOKEN_SIZE,
    Admission,
    Ask,
    Gone,
    Hello,
    Join,
    Leave,
    News,
    Renewal,
    Renewed,
    Root,
    check_root,
    sign_join,
    unpack,
)
from earmark_shared.errors import AdmissionError, CertificateError, LogError, PolicyError, SettingsError
from earmark_shared.wire.channel import Address, call, fetch_certificate, open_channel

if TYPE_CHECKING:
    import grpc

    from earmark_client.store.database import Database

RENEW_BEFORE_S = 30 * 86_400
HEAD_AGE_MOST_S = 3600
"""How old the log's head may be. The authority signs one for each call, so an hour is clocks that differ; without a bound, a server that
has no enrolment key could hide a revocation for good by showing the head from before it."""
FORKED = (
    "Ask whoever runs the server. If a backup was put back there: `earmark leave --offline`, then join again with a new invitation. "
    "If not, somebody may be deceiving this device."
)
_ADDRESS = re.compile(r"earmark://(\[[0-9a-f:.]+\]|[A-Za-z0-9._-]{1,253}):([0-9]{1,5})/([0-9a-f]{64})")


@dataclass(frozen=True)
class Invitation:
    """Where to go, and the fingerprint of whom to find there."""

    address: Address
    fingerprint: bytes


@dataclass(frozen=True)
class World:
    """What enrolment needs from outside."""

    clock: Callable[[], float]
    """Unix seconds."""
    entropy: Entropy


def read_invitation(url: str) -> Invitation:
    """Read `earmark://HOST:PORT/FINGERPRINT`.

    Raises:
        SettingsError: it is no such address.
    """
    found = _ADDRESS.fullmatch(url)
    if found is None or not 0 < int(found[2]) < 2**16:
        raise SettingsError("this is no invitation's address", hint="copy all of it: earmark://HOST:PORT/ and 64 digits")
    return Invitation(Address(found[1].strip("[]"), int(found[2])), bytes.fromhex(found[3]))


def read_token(text: str) -> bytes:
    """Read a token, 32 hexadecimal digits; SettingsError if it isn't one."""
    if re.fullmatch(f"[0-9a-f]{{{2 * TOKEN_SIZE}}}", text) is None:
        raise SettingsError("this is no invitation's token", hint=f"copy all {2 * TOKEN_SIZE} digits")
    return bytes.fromhex(text)


def join(database: Database, invitation: Invitation, token: bytes, world: World, *, as_lab: bool) -> Membership:
    """Enrol this device; run again after an interruption, with the same invitation, it goes on.

    Raises:
        AdmissionError: joined already, another server than the invited one, or the token is not good.
        PolicyError: this library is a lab home and the federation is none, or the other way round.
        NetworkError: the server can't be reached. TrustError, LogError: what it answered is not right.
    """
    if load_membership(database) is not None:
        raise AdmissionError("This library is in a federation already.", hint="earmark leave, then join again.")
    if is_lab(database) and not as_lab:
        raise PolicyError("This library is a lab home, for good.", hint="Join with --lab, or make a new library.")
    root = _greet(invitation, fetch_certificate(invitation.address))
    if root.is_lab != as_lab:
        raise PolicyError("Only one of the two, the federation or this join, is a lab.", hint="Ask for the right invitation.")
    keys = load_pending(database, token) or DeviceKeys.create(world.entropy)
    with database.transaction():
        store_pending(database, keys, token)
        if as_lab:
            record_lab(database)
    unsigned = Join(root.challenge, token, keys.identity.public, keys.node.public, as_lab, bytes(64), bytes(8))
    request = sign_join(unsigned, invitation.fingerprint, keys.identity, keys.node)
    with open_channel(invitation.address, _pem(root.tls_ca)) as channel:
        admission = call(channel, "Door", "Admit", request, Admission)
    membership = Membership(
        invitation.address, root, keys, admission.cert, admission.tls_cert, admission.head, b"", is_lab=as_lab
    )
    _check_admission(membership, admission, now_s=int(world.clock()))
    with database.transaction():
        store_membership(database, membership)
    return membership


def follow(database: Database, world: World) -> Enrolment:
    """Learn who joined and who was shut out since last time; renew certificates that run out soon.

    Raises:
        AdmissionError: not joined, or revoked. LogError: the log is not the one this device knew, or its head is old.
        NetworkError: no server.
    """
    membership, now_s = joined(database), int(world.clock())
    known = read_head(membership.head, membership.root.authority)
    with member_channel(membership) as channel:
        news = call(channel, "Members", "Follow", Ask(known.size), News)
        renewed = _renew(channel, membership, now_s=now_s)
    head = read_head(news.head, membership.root.authority)
    _check_fresh(head, now_s=now_s)
    _check_goes_on(known, head, news)
    check_revoked(head, news.revoked)
    root = replace(membership.root, plan_key=news.plan_key)
    after = replace(renewed, root=root, head=news.head, revoked=news.revoked)
    is_back = head.at_s < known.at_s or head.least_epoch < known.least_epoch
    if is_back or not membership.enrolment.revoked <= after.enrolment.revoked:
        raise LogError("the enrolment log goes back, or takes back a revocation")
    after.plan_key(now_s=now_s)
    with database.transaction():
        store_membership(database, after)
    return after.enrolment


def leave(database: Database, world: World) -> None:
    """Have this device revoked, check that the log says so, and delete its keys. A device that is out already only deletes them.

    The log's entry names the newest certificate, so one that is due is asked for first: an earlier answer may have been lost.

    Raises:
        AdmissionError: not joined. NetworkError: no server; nothing was deleted. LogError: the server does not prove it.
    """
    membership = joined(database)
    request = Leave(membership.alias, membership.keys.identity.sign(LEAVE_LABEL, membership.alias))
    try:
        with member_channel(membership) as channel:
            membership = _renew(channel, membership, now_s=int(world.clock()))
            gone = call(channel, "Members", "Quit", request, Gone)
    except AdmissionError:
        forget(database)
        return
    head = read_head(gone.head, membership.root.authority)
    entry = Entry(Change.REVOKED, membership.alias, cert_hash(membership.certificate), gone.left_s, membership.is_lab)
    verify_inclusion(leaf_hash(entry.encode()), gone.index, head.size, unpack(gone.path), head.root)
    forget(database)


def forget(database: Database) -> None:
    """Delete this device's keys without telling the server; its certificates then end by themselves."""
    with database.transaction():
        forget_membership(database)


def joined(database: Database) -> Membership:
    """Return the membership; AdmissionError if there is none."""
    membership = load_membership(database)
    if membership is None:
        raise AdmissionError("This library is in no federation.", hint="Join one: earmark join ADDRESS --token TOKEN")
    return membership


def member_channel(membership: Membership) -> grpc.Channel:
    """Open a channel to the members' methods of the server, with this device's certificate; use it in a `with` block."""
    return open_channel(membership.member_address, membership.ca_pem, membership.credentials)


def _greet(invitation: Invitation, shown_pem: bytes) -> Root:
    """Ask the server for its root. Until the fingerprint is checked, TLS trusts just the certificate that it showed."""
    with open_channel(invitation.address, shown_pem) as channel:
        root = call(channel, "Door", "Greet", Hello(PROTO), Root)
    check_root(root, invitation.fingerprint)
    return root


def _check_admission(membership: Membership, admission: Admission, *, now_s: int) -> None:
    root, keys = membership.root, membership.keys
    certificate = read(admission.cert, Enrolment(root.authority), now_s=now_s)
    if certificate.identity != keys.identity.public:
        raise CertificateError("the enrolment certificate is for another key")
    _check_tls(admission.tls_cert, membership)
    membership.plan_key(now_s=now_s)
    head = read_head(admission.head, root.authority)
    entry = Entry(Change.JOINED, certificate.alias, cert_hash(admission.cert), admission.joined_s, membership.is_lab)
    verify_inclusion(leaf_hash(entry.encode()), admission.index, head.size, unpack(admission.path), head.root)


def _check_fresh(head: Head, *, now_s: int) -> None:
    if head.at_s < now_s - HEAD_AGE_MOST_S:
        raise LogError(
            "the enrolment log's head is more than an hour old: the server's clock, or this device's, is wrong, or news is withheld",
            hint="Check this device's clock. If it is right, tell whoever runs the federation.",
        )


def _check_tls(encoded: bytes, membership: Membership) -> None:
    try:
        certificate = x509.load_der_x509_certificate(encoded)
        certificate.verify_directly_issued_by(x509.load_der_x509_certificate(membership.root.tls_ca))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise CertificateError("the TLS certificate is not the federation's") from error
    public = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if public != membership.keys.node.public:
        raise CertificateError("the TLS certificate is for another key")


def _check_goes_on(known: Head, head: Head, news: News) -> None:
    try:
        verify_consistency(known.size, known.root, head.size, head.root, unpack(news.proof))
    except LogError as error:
        what = (
            f"has {head.size} entries, this device has seen {known.size}" if head.size < known.size else "is not the one it was"
        )
        raise LogError(f"The server's enrolment log {what}.", hint=FORKED) from error


def _renew(channel: grpc.Channel, membership: Membership, *, now_s: int) -> Membership:
    tls_ends_s = x509.load_der_x509_certificate(membership.tls_certificate).not_valid_after_utc.timestamp()
    known = peek(membership.certificate)
    if now_s < min(tls_ends_s, known.not_after_s) - RENEW_BEFORE_S:
        return membership
    request = Renewal(membership.alias, membership.keys.identity.sign(RENEW_LABEL, membership.alias))
    renewed = call(channel, "Members", "Renew", request, Renewed)
    _check_tls(renewed.tls_cert, membership)
    certificate = read(renewed.cert, Enrolment(membership.root.authority, least_epoch=known.epoch), now_s=now_s)
    if (certificate.alias, certificate.identity) != (known.alias, membership.keys.identity.public):
        raise CertificateError("the enrolment certificate is for another key")
    if certificate.not_after_s < known.not_after_s:
        raise CertificateError("the enrolment certificate ends before the one that this device has")
    return replace(membership, certificate=renewed.cert, tls_certificate=renewed.tls_cert)


def _pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode()
