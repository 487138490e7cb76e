"""Hashes and keys: the framing can't be confused, and every field and role changes them."""

from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.fleet import NOW_S, Fleet, Stream

from earmark_shared.crypto.certificates import CERTIFICATE_SIZE, Certificate, Enrolment, issue, peek, read
from earmark_shared.crypto.hashing import derive_key, digest, f64, frame, u16, u32, u64
from earmark_shared.crypto.identities import Identity, verify
from earmark_shared.errors import CertificateError, SignatureError
from earmark_shared.round import RoundPlan
from earmark_shared.secagg import transcript

PARTS = st.lists(st.binary(max_size=6), max_size=4)


def test_frame_is_the_designs():
    assert frame("ab", b"c", b"") == b"\x00\x02ab\x00\x00\x00\x01c\x00\x00\x00\x00"
    assert (u16(258), u32(258), u64(258), f64(1.0)) == (
        b"\x01\x02",
        b"\0\0\x01\x02",
        b"\0" * 6 + b"\x01\x02",
        b"\x3f\xf0" + bytes(6),
    )


@given(st.text("ab", max_size=3), PARTS, st.text("ab", max_size=3), PARTS)
@settings(max_examples=80, derandomize=True, database=None)
def test_no_two_lists_of_parts_are_the_same_bytes(label, parts, other_label, other_parts):
    assert (frame(label, *parts) == frame(other_label, *other_parts)) == ((label, parts) == (other_label, other_parts))


def test_derived_keys_depend_on_everything():
    keys = [
        derive_key(b"s", b"t", "l", b"p"),
        derive_key(b"S", b"t", "l", b"p"),
        derive_key(b"s", b"T", "l", b"p"),
        derive_key(b"s", b"t", "L", b"p"),
    ]
    keys += [derive_key(b"s", b"t", "l", b"P"), derive_key(b"s", b"t", "l", b"p", b"")]
    assert len({bytes(key) for key in keys}) == 6
    assert {len(key) for key in keys} == {32}


def test_every_field_of_a_plan_is_hashed_but_the_signature():
    plan = Fleet(1).plan
    base, changed = transcript.plan_hash(plan), set()
    for field in fields(RoundPlan):
        value = getattr(plan, field.name)
        other = (
            value[:-1] + bytes([value[-1] ^ 1])
            if isinstance(value, bytes)
            else (*value[:-1], 9)
            if isinstance(value, tuple)
            else value + 1
        )
        changed.add(transcript.plan_hash(replace(plan, **{field.name: other})))
    assert len(changed) == len(fields(RoundPlan))
    assert base in changed  # the signature's
    assert transcript.plan_hash(replace(plan, sig=b"x" * 64)) == base


def test_every_field_of_a_member_is_in_the_roster_hash():
    fleet = Fleet(3)
    members = [device.start(NOW_S) for device in fleet.devices()]
    base = transcript.roster_hash(bytes(32), members)
    others = [
        transcript.roster_hash(b"x" * 32, members),
        transcript.roster_hash(bytes(32), members[:2]),
        transcript.roster_hash(bytes(32), members[::-1]),
        *(
            transcript.roster_hash(
                bytes(32), [replace(members[0], **{name: bytes(len(getattr(members[0], name)))}), *members[1:]]
            )
            for name in ("device_id", "cert", "mask_pk", "share_pk")
        ),
    ]
    assert len({base, *others}) == 8


def test_survivors_and_commitments():
    t1 = b"1" * 32
    hashes = {transcript.survivors_hash(t1, each) for each in [(), (0,), (0, 1), (1, 0), (256,), (1, 0, 0)]}
    assert len(hashes) == 6
    assert transcript.commitment(t1, 1, b"b" * 32) != transcript.commitment(t1, 2, b"b" * 32)
    assert transcript.commitment(t1, 1, bytearray(b"b" * 32)) == transcript.commitment(t1, 1, b"b" * 32)


def test_keys_have_a_direction_or_none():
    arguments = b"s" * 32, b"r" * 16, b"1" * 32
    assert transcript.pair_key(*arguments, 1, 2) == transcript.pair_key(*arguments, 2, 1)
    assert transcript.share_key(*arguments, 1, 2) != transcript.share_key(*arguments, 2, 1)
    every = [transcript.pair_key(*arguments, 1, 2), transcript.share_key(*arguments, 1, 2), transcript.self_key(*arguments)]
    assert len({bytes(key) for key in every}) == 3
    assert transcript.box_context(b"1" * 32, 1, 2) == b"1" * 32 + b"\0\1\0\2"


def test_labels_keep_uses_apart():
    labels = [value for name, value in vars(transcript).items() if name.isupper() and isinstance(value, str)]
    assert len(set(labels)) == len(labels) == 11
    identity = Identity.create(Stream(0))
    signature = identity.sign(transcript.CONSISTENT_SIG, b"t3")
    verify(identity.public, signature, transcript.CONSISTENT_SIG, b"t3")
    for label in set(labels) - {transcript.CONSISTENT_SIG}:
        with pytest.raises(SignatureError):
            verify(identity.public, signature, label, b"t3")
    assert digest(transcript.PLAN) != digest(transcript.ROSTER)


def test_identities_travel_raw():
    identity = Identity.create(Stream(1))
    assert Identity(identity.private_bytes()).public == identity.public
    with pytest.raises(SignatureError):
        verify(b"short", bytes(64), "l")


def test_certificates():
    authority, holder = Identity.create(Stream("a")), Identity.create(Stream("h"))
    says = Certificate(b"A" * 16, holder.public, NOW_S, 5)
    encoded = issue(authority, says)
    assert len(encoded) == CERTIFICATE_SIZE
    assert read(encoded, Enrolment(authority.public, least_epoch=5), now_s=NOW_S) == says == peek(encoded)
    for enrolment, now_s in [
        (Enrolment(holder.public), NOW_S),
        (Enrolment(authority.public), NOW_S + 1),
        (Enrolment(authority.public, revoked=frozenset([b"A" * 16])), NOW_S),
        (Enrolment(authority.public, least_epoch=6), NOW_S),
    ]:
        with pytest.raises(CertificateError):
            read(encoded, enrolment, now_s=now_s)
    for place in range(CERTIFICATE_SIZE):
        with pytest.raises(CertificateError):
            read(encoded[:place] + bytes([encoded[place] ^ 4]) + encoded[place + 1 :], Enrolment(authority.public), now_s=0)
    with pytest.raises(CertificateError):
        issue(authority, replace(says, alias=b"short"))
