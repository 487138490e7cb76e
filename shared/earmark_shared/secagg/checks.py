"""Every refusal of SA1, one function each, so that each can be seen to matter: take one away and an attack works.

A device calls them before anything secret leaves it, the server calls the same ones where it has the same to fear. Each
raises the error of one abort code; none returns a bool. The attacks are tests/attack/test_sa1_*.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from earmark_shared.crypto.certificates import Certificate, Enrolment, peek, read
from earmark_shared.crypto.exchange import is_worthless
from earmark_shared.crypto.hashing import u16
from earmark_shared.crypto.identities import Identity, verify, verify_digest
from earmark_shared.errors import (
    BoxError,
    CertificateError,
    ConsistencyError,
    CountError,
    PlanError,
    PolicyError,
    RosterError,
    SignatureError,
)
from earmark_shared.round import Advertise, Floors, Inbox, Roster, RoundPlan, SurvivorSig, check_floors, threshold
from earmark_shared.secagg import transcript


@dataclass(frozen=True)
class HeldModel:
    """The model a device holds; a round must be about this one."""

    version: int
    model_sha256: bytes
    schema_sha256: bytes
    d: int


@dataclass(frozen=True)
class Membership:
    """What a device is and believes before a round starts."""

    identity: Identity
    certificate: bytes
    enrolment: Enrolment
    plan_keys: Mapping[bytes, bytes]
    """Round-plan keys that a release vouches for: key id -> Ed25519 public key."""
    model: HeldModel
    floors: Floors = field(default_factory=Floors)
    rounds_seen: AbstractSet[bytes] = field(default_factory=frozenset)
    """Round ids this device has taken part in."""


def check_plan(plan: RoundPlan, member: Membership, *, now_s: int) -> None:
    """Refuse a plan before training for it.

    Raises:
        PlanError: it is not signed by a known key, not current, seen before, or not for the model held.
        PolicyError: it protects less than the device's floors. RosterError: this device's own certificate has expired.
    """
    check_own_certificate(member, now_s=now_s)
    check_plan_signature(plan, member.plan_keys)
    check_window(plan, now_s)
    if plan.round_id in member.rounds_seen:
        raise PlanError("this device has taken part in that round already")
    check_model(plan, member.model)
    check_floors(plan, member.floors)


def check_own_certificate(member: Membership, *, now_s: int) -> None:
    """Refuse to train for a round whose server, and every other device, would refuse this device's certificate.

    Raises:
        RosterError: it has expired.
    """
    if now_s > peek(member.certificate).not_after_s:
        raise RosterError("this device's enrolment certificate has expired", hint="leave, and join again with a new invitation")


def check_plan_signature(plan: RoundPlan, plan_keys: Mapping[bytes, bytes]) -> None:
    """Refuse a plan that no known round-plan key signed.

    Raises:
        PlanError: the key is unknown or the signature not right.
    """
    if plan.key_id not in plan_keys:
        raise PlanError("the round's plan is signed by an unknown key", hint="run `earmark update`")
    try:
        verify_digest(plan_keys[plan.key_id], plan.sig, transcript.plan_hash(plan))
    except SignatureError as error:
        raise PlanError("the signature of the round's plan is not right") from error


def check_window(plan: RoundPlan, now_s: int) -> None:
    """Refuse a plan before or after its time.

    Raises:
        PlanError: the round is not now.
    """
    if not plan.not_before <= now_s <= plan.not_after:
        raise PlanError("the round's plan is not valid at this time", hint="check this device's clock")


def check_model(plan: RoundPlan, model: HeldModel) -> None:
    """Refuse a plan for another model than the one held.

    Raises:
        PlanError: version, model, schema or dimension differ.
    """
    about = HeldModel(plan.model_version, plan.model_sha256, plan.schema_sha256, plan.d)
    if about != model:
        raise PlanError(f"the round is about model version {plan.model_version}, this device holds {model.version}")


def check_advertise(advertise: Advertise, plan_digest: bytes, enrolment: Enrolment, *, now_s: int) -> None:
    """Refuse round keys that no enrolled device signed for this plan.

    Raises:
        RosterError: another plan, a bad certificate, another alias or a bad signature.
    """
    if advertise.plan_hash != plan_digest:
        raise RosterError("a device was told another plan")
    certificate = check_certificate(advertise, enrolment, now_s=now_s)
    check_advertise_signature(advertise, certificate, plan_digest)


def check_certificate(advertise: Advertise, enrolment: Enrolment, *, now_s: int) -> Certificate:
    """Return what an advertised certificate says.

    Raises:
        RosterError: it is not from the enrolment authority, not current, revoked, or another device's.
    """
    try:
        certificate = read(advertise.cert, enrolment, now_s=now_s)
    except CertificateError as error:
        raise RosterError(str(error)) from error
    if certificate.alias != advertise.device_id:
        raise RosterError("a device shows another device's certificate")
    return certificate


def check_advertise_signature(advertise: Advertise, certificate: Certificate, plan_digest: bytes) -> None:
    """Refuse round keys that were not signed by the certified identity.

    Raises:
        RosterError: the signature is not right.
    """
    parts = plan_digest, advertise.mask_pk, advertise.share_pk
    try:
        verify(certificate.identity, advertise.sig, transcript.ADVERTISE_SIG, *parts)
    except SignatureError as error:
        raise RosterError("a device's round keys are not signed by its identity") from error


def check_exchange_keys(advertise: Advertise) -> None:
    """Refuse round keys that lead to the same secret with everybody: each device that met one would leave the round.

    Raises:
        RosterError: a key is a point of low order.
    """
    if is_worthless(advertise.mask_pk) or is_worthless(advertise.share_pk):
        raise RosterError("a device's key is worthless")


def check_roster(roster: Roster, plan: RoundPlan, plan_digest: bytes, floors: Floors) -> None:
    """Refuse a roster of a wrong plan or size, or in which anybody stands twice.

    Raises:
        RosterError: it is for another plan, or ids or keys are not sorted and unique.
        PolicyError: it has too few devices or more than `n_max`.
    """
    if roster.plan_hash != plan_digest:
        raise RosterError("the roster is for another plan")
    check_cohort(plan, len(roster.members), floors)
    check_unique(roster.members)


def check_cohort(plan: RoundPlan, count: int, floors: Floors) -> None:
    """Refuse a shard of a wrong size: how many colluders it stands depends on how many it begins with.

    Raises:
        PolicyError: fewer devices than `n_min` or a shard's least, or more than `n_max`.
    """
    least = max(plan.n_min, floors.shard_least)
    if not least <= count <= plan.n_max:
        raise PolicyError(f"the shard has {count} devices, a round needs {least} and its plan says at most {plan.n_max}")


def check_unique(members: Sequence[Advertise]) -> None:
    """Refuse members that are not in order of id, or share an id or a key.

    Raises:
        RosterError: as above; one device must not count twice.
    """
    ids = [each.device_id for each in members]
    keys = [key for each in members for key in (each.mask_pk, each.share_pk)]
    certified = [peek(each.cert).identity for each in members]
    if ids != sorted(set(ids)) or len(set(keys)) != len(keys) or len(set(certified)) != len(certified):
        raise RosterError("a device stands in the roster twice, or out of order")


def check_members(roster: Roster, plan_digest: bytes, enrolment: Enrolment, *, now_s: int) -> None:
    """Refuse a roster with a member whose keys or certificate are not right.

    Raises:
        RosterError: `culprit` is the member's index.
    """
    for index, advertise in enumerate(roster.members):
        try:
            check_advertise(advertise, plan_digest, enrolment, now_s=now_s)
        except RosterError as error:
            raise RosterError(str(error), culprit=index) from error


def check_own_entry(roster: Roster, own: Advertise) -> int:
    """Return this device's index.

    Raises:
        RosterError: its entry is missing or not what it sent.
    """
    if own not in roster.members:
        raise RosterError("the roster does not hold what this device advertised")
    return roster.members.index(own)


def check_same_transcript(claimed: bytes, own: bytes) -> None:
    """Refuse a message that belongs to another transcript (T1 or T3).

    Raises:
        ConsistencyError: the hashes differ.
    """
    if claimed != own:
        raise ConsistencyError("the message belongs to another round, attempt or shard")


def check_inbox(inbox: Inbox, *, index: int, count: int) -> None:
    """Refuse boxes that are not one each from distinct others to this device.

    Raises:
        BoxError: a box is for somebody else, or a sender is unknown, itself or named twice.
    """
    others = set(range(count)) - {index}
    if len(inbox.src) != len(inbox.boxes) or list(inbox.src) != sorted(set(inbox.src) & others):
        raise BoxError("the boxes are not one each from distinct devices")
    for src, box in zip(inbox.src, inbox.boxes, strict=True):
        if box.dst != index:
            raise BoxError("a box is meant for another device", culprit=src)


def check_quorum(plan: RoundPlan, *, left: int, count: int) -> None:
    """Refuse to go on with `left` of a shard of `count` devices.

    Raises:
        CountError: fewer than the threshold or than the plan's `n_min`.
    """
    if left < plan.quorum(count):
        raise CountError(f"{left} of {count} devices are left, {plan.quorum(count)} are needed")


def check_survivors(survivors: Sequence[int], sharers: AbstractSet[int], *, index: int) -> None:
    """Refuse survivors that are not a sorted subset of those who shared keys, this device among them: ConsistencyError."""
    if list(survivors) != sorted(set(survivors) & sharers) or index not in survivors:
        raise ConsistencyError("the survivors are not devices that shared keys, or this device is not among them")


def check_survivor_signatures(
    signatures: Sequence[SurvivorSig], members: Sequence[Advertise], survivors: Sequence[int], t3: bytes
) -> None:
    """Refuse to open anything that fewer than the threshold of survivors put their name to.

    Raises:
        ConsistencyError: a signature is over another T3, not right, twice, or from nobody of the survivors.
        CountError: there are fewer than the threshold.
    """
    check_signers(signatures, survivors)
    for signature in signatures:
        check_survivor_signature(signature, members, t3)
    if len(signatures) < threshold(len(members)):
        raise CountError(f"{len(signatures)} devices confirm the survivors, {threshold(len(members))} are needed")


def check_signers(signatures: Sequence[SurvivorSig], survivors: Sequence[int]) -> None:
    """Refuse a signer that is no survivor or signs twice: ConsistencyError."""
    for src, times in Counter(signature.src for signature in signatures).items():
        if times > 1 or src not in survivors:
            raise ConsistencyError("a survivor's word counts twice, or is nobody's", culprit=src)


def check_survivor_signature(signature: SurvivorSig, members: Sequence[Advertise], t3: bytes) -> None:
    """Refuse a signature that is not the member's over exactly this T3: ConsistencyError."""
    check_same_transcript(signature.t3, t3)
    identity = peek(members[signature.src].cert).identity
    try:
        verify(identity, signature.sig, transcript.CONSISTENT_SIG, t3, u16(signature.src))
    except SignatureError as error:
        raise ConsistencyError("a survivor's signature is not right", culprit=signature.src) from error
