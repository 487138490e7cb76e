"""S3: a server that lies about who is in the round. Every script takes the victim's update on a build without the check."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from tests.support.fleet import NOW_S, Fleet, Stream, run_to, swift_verification
from tests.support.plunder import Puppet, assert_gone, plunder, roster_of

from earmark_shared.crypto import certificates
from earmark_shared.crypto.certificates import Certificate, issue
from earmark_shared.crypto.identities import Identity
from earmark_shared.crypto.sealing import open_sealed, seal_once
from earmark_shared.errors import MalformedError, PolicyError, RosterError
from earmark_shared.round import SHARE_SIZE, Box, Floors, Inbox, Phase
from earmark_shared.secagg import checks, device, transcript
from earmark_shared.secagg.shamir import combine


@pytest.fixture(autouse=True)
def _swift():
    with swift_verification():
        yield


COUNT = 6


def made_up_authority(fleet):
    """Sock puppets whose certificates the server signed with a key of its own."""
    authority = Identity.create(Stream("the server's own"))
    return [Puppet(place, fleet.member(place, authority=authority)) for place in range(1, COUNT)], None


def self_signed(fleet):
    """Sock puppets that vouch for themselves."""
    members = []
    for place in range(1, COUNT):
        member = fleet.member(place)
        parts = Certificate(member.certificate[1:17], member.identity.public, NOW_S + 99, 1)
        members.append(replace(member, certificate=issue(member.identity, parts)))
    return [Puppet(place, member) for place, member in enumerate(members)], None


def no_certificate_check(monkeypatch):
    monkeypatch.setattr(checks, "check_certificate", lambda advertise, enrolment, now_s: certificates.peek(advertise.cert))


def swapped_keys(fleet):
    """Honest devices' entries with the server's keys in place of theirs."""
    puppets = [Puppet(place, fleet.members[place]) for place in range(1, COUNT)]
    return puppets, [replace(each.advertise(fleet.plan), sig=bytes(64)) for each in puppets]


def replayed_signature(fleet):
    """The same with signatures that the honest devices gave in another round."""
    puppets = [Puppet(place, fleet.members[place]) for place in range(1, COUNT)]
    other = fleet.make_plan(round_id=b"another round id")
    old = [Puppet(place, fleet.members[place]).advertise(other).sig for place in range(1, COUNT)]
    return puppets, [replace(each.advertise(fleet.plan), sig=sig) for each, sig in zip(puppets, old, strict=True)]


def no_key_signature_check(monkeypatch):
    monkeypatch.setattr(checks, "check_advertise_signature", lambda *args: None)


def one_colluder_many_times(fleet):
    """One enrolled colluder that fills the whole shard under its one id."""
    puppets = [Puppet(place, fleet.members[1]) for place in range(1, COUNT)]
    return puppets, None


def one_key_many_times(fleet):
    """Enrolled colluders that all use one key pair."""
    puppets = [Puppet("same", fleet.members[place]) for place in range(1, COUNT)]
    return puppets, None


def one_identity_many_aliases(fleet):
    """One colluder's identity, certified under many aliases."""
    one = fleet.members[1]
    puppets = []
    for place in range(1, COUNT):
        alias = hashlib.sha256(f"alias {place}".encode()).digest()[:16]
        certificate = issue(fleet.authority, Certificate(alias, one.identity.public, NOW_S + 99, 1))
        puppets.append(Puppet(place, replace(one, certificate=certificate)))
    return puppets, None


def no_uniqueness_check(monkeypatch):
    monkeypatch.setattr(checks, "check_unique", lambda members: None)


def shrunken(fleet):
    """Three enrolled colluders and the victim."""
    return [Puppet(place, fleet.members[place]) for place in range(1, 4)], None


def no_cohort_check(monkeypatch):
    """Size is checked twice: of the roster, and of whoever is left."""
    monkeypatch.setattr(checks, "check_cohort", lambda plan, count, floors: None)
    monkeypatch.setattr(checks, "check_quorum", lambda plan, left, count: None)


ATTACKS = [
    (made_up_authority, no_certificate_check, RosterError),
    (self_signed, no_certificate_check, RosterError),
    (swapped_keys, no_key_signature_check, RosterError),
    (replayed_signature, no_key_signature_check, RosterError),
    (one_colluder_many_times, no_uniqueness_check, RosterError),
    (one_key_many_times, no_uniqueness_check, RosterError),
    (one_identity_many_aliases, no_uniqueness_check, RosterError),
    (shrunken, no_cohort_check, PolicyError),
]


def script(attack):
    """Return the fleet, the victim, the roster it is shown, and the puppets by index."""
    fleet = Fleet(COUNT, d=40)
    victim = fleet.device(0)
    own = victim.start(NOW_S)
    puppets, entries = attack(fleet)
    entries = entries or [each.advertise(fleet.plan) for each in puppets]
    roster = roster_of(fleet.plan, [own, *entries])
    known = {each.mask_pk: puppet for each, puppet in zip(entries, puppets, strict=True)}
    by_index = {index: known[each.mask_pk] for index, each in enumerate(roster.members) if each != own}
    return fleet, victim, roster, by_index


@pytest.mark.parametrize(("attack", "without", "error"), ATTACKS, ids=lambda each: getattr(each, "__name__", None))
def test_lies_about_the_roster(attack, without, error, monkeypatch):
    fleet, victim, roster, puppets = script(attack)
    with pytest.raises(error):
        victim.step(roster, NOW_S)
    assert_gone(victim, error)
    without(monkeypatch)
    fleet, victim, roster, puppets = script(attack)
    assert np.array_equal(plunder(victim, fleet.plan, roster, puppets), fleet.steps(0))


def honest_roster(fleet, devices):
    return roster_of(fleet.plan, [each.start(NOW_S) for each in devices])


def changed(entries, index, **changes):
    return [replace(each, **changes) if place == index else each for place, each in enumerate(entries)]


def own_entry_gone(fleet, roster, own):
    return [each for each in roster.members if each != own] + [Puppet(9, fleet.member(9)).advertise(fleet.plan)]


def own_entry_changed(fleet, roster, own):
    mine = roster.members.index(own)
    return changed(roster.members, mine, mask_pk=Puppet(9, fleet.members[0]).mask_key.public)


def another_alias(fleet, roster, own):
    last = roster.members[-1]
    return changed(roster.members, roster.members.index(last), device_id=bytes([255]) * 16)


ODD = [own_entry_gone, own_entry_changed, another_alias]


@pytest.mark.parametrize("odd", ODD, ids=lambda each: each.__name__)
def test_odd_entries(odd):
    fleet = Fleet(COUNT, d=3)
    devices = fleet.devices()
    roster = honest_roster(fleet, devices)
    victim = devices[0] if odd is not another_alias else next(d for d in devices if d._own == roster.members[0])
    with pytest.raises(RosterError):
        victim.step(roster_of(fleet.plan, odd(fleet, roster, victim._own)), NOW_S)
    assert_gone(victim, RosterError)
    control = Fleet(COUNT, d=3).devices()
    assert control[0].step(honest_roster(fleet, control), NOW_S)


def test_entries_out_of_order():
    fleet = Fleet(COUNT, d=3)
    devices = fleet.devices()
    roster = honest_roster(fleet, devices)
    with pytest.raises(RosterError, match="order"):
        devices[0].step(replace(roster, members=roster.members[::-1]), NOW_S)
    assert_gone(devices[0], RosterError)


@pytest.mark.parametrize("how", ["revoked", "expired", "old epoch"])
def test_certificates_that_ended(how):
    fleet = Fleet(COUNT, d=3)
    devices = fleet.devices()
    roster = honest_roster(fleet, devices)
    other = roster.members[0] if roster.members[0] != devices[0]._own else roster.members[1]
    enrolments = {
        "revoked": fleet.enrolment(revoked=frozenset([other.device_id])),
        "expired": fleet.enrolment(),
        "old epoch": fleet.enrolment(least_epoch=2),
    }
    victim = fleet.device(0, member=replace(fleet.members[0], enrolment=enrolments[how]))
    victim.start(NOW_S)
    members = list(roster.members)
    if how == "expired":
        place = next(place for place in range(COUNT) if fleet.members[place].certificate[1:17] == other.device_id)
        member = fleet.members[place]
        certificate = issue(fleet.authority, Certificate(other.device_id, member.identity.public, NOW_S - 1, 1))
        members[members.index(other)] = Puppet(0, replace(member, certificate=certificate)).advertise(fleet.plan)
    with pytest.raises(RosterError, match="expired" if how == "expired" else "revoked"):
        victim.step(replace(roster, members=tuple(members)), NOW_S)
    assert_gone(victim, RosterError)


@pytest.mark.parametrize("field", ["mask_key", "share_key"])
@pytest.mark.parametrize("low_order", [bytes(32), b"\x01" + bytes(31)])
def test_worthless_keys_of_a_colluder(field, low_order):
    """A key that makes a shared secret everybody knows; the colluder signs it."""
    fleet = Fleet(COUNT, d=3)
    devices = fleet.devices()[:-1]
    puppet = Puppet(0, fleet.members[COUNT - 1])
    getattr(puppet, field).public = low_order
    shard_roster = roster_of(fleet.plan, [*(each.start(NOW_S) for each in devices), puppet.advertise(fleet.plan)])
    victim = devices[0]
    if field == "share_key":
        with pytest.raises(RosterError, match="worthless"):
            victim.step(shard_roster, NOW_S)
    else:
        inbox = inbox_for(victim, fleet, shard_roster, devices, puppet)
        with pytest.raises(RosterError, match="worthless"):
            victim.step(inbox, NOW_S)
    assert victim.abort.culprit == [each.mask_pk for each in shard_roster.members].index(puppet.mask_key.public)
    assert_gone(victim, RosterError)


@pytest.mark.parametrize("field", ["mask_key", "share_key"])
@pytest.mark.parametrize("low_order", [bytes(32), b"\x01" + bytes(31)])
def test_worthless_keys_never_come_before_the_others(field, low_order, monkeypatch):
    """The server refuses them at once: each device that met them would leave, and one colluder would end every round."""
    fleet = Fleet(COUNT, d=3)
    lobby = fleet.lobby(fleet.devices()[:-1])
    puppet = Puppet(0, fleet.members[COUNT - 1])
    getattr(puppet, field).public = low_order
    advertise = puppet.advertise(fleet.plan)
    with pytest.raises(RosterError, match="worthless"):
        lobby.receive(advertise.device_id, advertise, NOW_S)
    assert len(lobby) == COUNT - 1
    monkeypatch.setattr(checks, "check_exchange_keys", lambda advertise: None)
    lobby.receive(advertise.device_id, advertise, NOW_S)
    assert len(lobby) == COUNT, "control: without the check it is in"


def inbox_for(victim, fleet, roster, devices, puppet):
    replies = {}
    for each in devices:
        (reply,) = each.step(roster, NOW_S)
        replies[reply.src] = reply
    index = victim._index
    boxes = {src: next(box for box in reply.boxes if box.dst == index) for src, reply in replies.items() if src != index}
    place = [each.mask_pk for each in roster.members].index(puppet.mask_key.public)
    secret = puppet.share_key.shared_secrets([victim._own.share_pk])[0]
    key = transcript.share_key(secret, fleet.plan.round_id, victim._t1, place, index)
    boxes[place] = Box(index, seal_once(key, bytes(2 * SHARE_SIZE), transcript.box_context(victim._t1, place, index)))
    return Inbox(victim._t1, tuple(boxes[src] for src in sorted(boxes)), tuple(sorted(boxes)))


def test_the_threshold_is_the_devices_own(monkeypatch):
    """A build that lets the threshold be lowered to one gives the update to a single colluder."""

    def loot(fleet):
        shard, by_id = fleet.shard(fleet.devices())
        run_to(shard, by_id, Phase.MASKED)
        (thief, victim) = (by_id[shard.roster.members[index].device_id] for index in (0, 1))
        box = shard._shared[1].boxes[0]
        plain = open_sealed(thief._held.inbox_keys[1], box.ct, transcript.box_context(shard._t1, 1, 0))
        try:
            return combine({0: plain[:33]}) == victim._held.self_seed
        except MalformedError:
            return False

    assert not loot(Fleet(COUNT, d=3))
    monkeypatch.setattr(device, "threshold", lambda count: 1)
    assert loot(Fleet(COUNT, d=3))


@pytest.mark.parametrize(("floors", "count"), [(Floors(), 31), (Floors(n_min=40), 39), (Floors(n_min=5, lab=True), 4)])
def test_a_cohort_one_short(floors, count, monkeypatch):
    """S9 at the device: one device fewer than the floor and it leaves, however well enrolled the others are."""
    fleet = Fleet(count, d=3, floors=floors)
    devices = fleet.devices()
    roster = honest_roster(fleet, devices)
    for each in devices:
        with pytest.raises(PolicyError):
            each.step(roster, NOW_S)
        assert_gone(each, PolicyError)
    no_cohort_check(monkeypatch)
    control = Fleet(count, d=3, floors=floors).devices()
    assert control[0].step(honest_roster(fleet, control), NOW_S)
