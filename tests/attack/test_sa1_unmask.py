"""S3: a server that lies about who is left, to open less than it may. Each script opens it on a build without the check."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from tests.support.fleet import NOW_S, Fleet, run_to, swift_verification
from tests.support.plunder import assert_gone, confirm, forged, masked_round, opened, shares_in, steps_of

from earmark_shared.crypto.exchange import ExchangeKey
from earmark_shared.crypto.hashing import u16
from earmark_shared.errors import BoxError, ConsistencyError, CountError, PhaseError
from earmark_shared.round import Box, Phase, Survivors, SurvivorSig, UnmaskReq, threshold
from earmark_shared.secagg import checks, transcript
from earmark_shared.secagg.device import Device
from earmark_shared.secagg.masking import MaskSeeds, unmask
from earmark_shared.secagg.shamir import combine


@pytest.fixture(autouse=True)
def _swift():
    with swift_verification():
        yield


COUNT = 10  # t = 7
D = 25
EVERYBODY = tuple(range(COUNT))


# ---- the victim alive for some shares and dead for others ------------------------------------------------------------------------
def alive_and_dead(fleet):
    """Ask everybody for shares of the victim's self-mask seed, then again for shares of its mask key."""
    shard, devices, vectors = masked_round(fleet)
    victim, without = 3, tuple(index for index in EVERYBODY if index != 3)
    signatures = confirm(devices, shard, dict.fromkeys(EVERYBODY, EVERYBODY))
    words = tuple(signatures[index] for index in EVERYBODY[: threshold(COUNT)])
    alive = {index: device.step(UnmaskReq(shard._t1, EVERYBODY, words), NOW_S)[0] for index, device in devices.items()}
    helpers = {index: device for index, device in devices.items() if index != victim}
    dead = {index: device.step(UnmaskReq(shard._t1, without, words), NOW_S)[0] for index, device in helpers.items()}
    everything = opened(shard, vectors, EVERYBODY, {index: shares_in(reply) for index, reply in alive.items()})
    others = opened(
        shard,
        vectors,
        without,
        {index: shares_in(alive[index]) | {victim: shares_in(reply)[victim]} for index, reply in dead.items()},
    )
    return everything - others, steps_of(fleet, shard, victim), devices


def test_alive_and_dead(monkeypatch):
    fleet = Fleet(COUNT, d=D)
    caught = []
    honest = Device.step

    def step(device, message, now_s):
        try:
            return honest(device, message, now_s)
        except PhaseError:
            caught.append(device)
            raise

    monkeypatch.setattr(Device, "step", step)
    with pytest.raises(PhaseError):
        alive_and_dead(fleet)
    assert_gone(caught[0], PhaseError)


def test_alive_and_dead_opens_one_device_without_the_checks(monkeypatch):
    monkeypatch.setattr(Device, "_finish", lambda device: setattr(device, "phase", Phase.CONSISTENCY))
    monkeypatch.setattr(checks, "check_same_transcript", lambda claimed, own: None)
    monkeypatch.setattr(checks, "check_survivor_signatures", lambda *args: None)
    stolen, truth, _ = alive_and_dead(Fleet(COUNT, d=D))
    assert np.array_equal(stolen, truth)


@pytest.mark.parametrize("removed", ["check_same_transcript", "check_survivor_signatures", "_finish"])
def test_alive_and_dead_needs_every_one_of_those_checks_gone_but_one(removed, monkeypatch):
    """With only one of the three gone the others still stop it."""
    if removed == "_finish":
        monkeypatch.setattr(Device, "_finish", lambda device: setattr(device, "phase", Phase.CONSISTENCY))
    else:
        monkeypatch.setattr(checks, removed, lambda *args: None)
    with pytest.raises((PhaseError, ConsistencyError)):
        alive_and_dead(Fleet(COUNT, d=D))


# ---- different survivors for different devices -----------------------------------------------------------------------------------
def split_views(shard):
    """Tell each device other survivors, so that six of ten are opened though seven are the least: nobody says no to a six.

    The six are alive for everybody, and each of the other four is dead for seven devices.
    """
    wanted, others = EVERYBODY[:6], EVERYBODY[6:]
    dead, tally = {}, Counter()
    for index in reversed(EVERYBODY):
        choice = sorted((other for other in others if other != index), key=lambda other: tally[other])[: COUNT - threshold(COUNT)]
        dead[index] = choice
        tally.update(choice)
    return wanted, {index: tuple(each for each in EVERYBODY if each not in dead[index]) for index in EVERYBODY}


def two_stories(fleet, words_for):
    shard, devices, vectors = masked_round(fleet)
    wanted, views = split_views(shard)
    signatures = confirm(devices, shard, views)
    replies = {}
    for index, device in devices.items():
        request = UnmaskReq(shard._t1, views[index], words_for(shard, devices, signatures, views[index]))
        replies[index] = device, request
    return shard, vectors, wanted, replies


def collect(replies):
    """Send each request; return the shares, responder -> owner -> (is it of the mask key, share)."""
    return {
        index: {each.of: (each.is_mask_key, each.y) for each in device.step(request, NOW_S)[0].shares}
        for index, (device, request) in replies.items()
    }


def open_few(shard, vectors, wanted, answers):
    """Put the wanted devices' sum together from answers in which owners are dead for some and alive for others."""
    t = threshold(COUNT)
    is_mask_key = {owner: owner not in wanted for owner in EVERYBODY}
    by_owner = {
        owner: [(index, given[owner][1]) for index, given in answers.items() if given[owner][0] is is_mask_key[owner]][:t]
        for owner in EVERYBODY
    }
    return sum_with(shard, vectors, wanted, by_owner)


def sum_with(shard, vectors, wanted, by_owner):

    total = sum(vectors[index] for index in wanted).astype("<u4")
    rid, t1, members = shard._plan.round_id, shard._t1, shard.roster.members
    for owner, shares in by_owner.items():
        secret = combine(dict(shares))
        if owner in wanted:
            unmask(total, MaskSeeds(added=[transcript.self_key(secret, rid, t1)]))
            continue
        agreed = ExchangeKey(secret).shared_secrets([members[index].mask_pk for index in wanted])
        for index, key in zip(wanted, agreed, strict=True):
            seed = transcript.pair_key(key, rid, t1, owner, index)
            unmask(total, MaskSeeds(added=[seed]) if owner > index else MaskSeeds(subtracted=[seed]))
    return total[1:].view("<i4")


def true_words(shard, devices, signatures, view):
    t3 = transcript.survivors_hash(shard._t1, view)
    return tuple(signatures[index] for index in view if signatures[index].t3 == t3)


def all_words(shard, devices, signatures, view):
    return tuple(signatures[index] for index in view)


def no_words(shard, devices, signatures, view):
    return ()


def forged_words(shard, devices, signatures, view):
    return tuple(forged(index, transcript.survivors_hash(shard._t1, view)) for index in view)


def one_short(shard, devices, signatures, view):
    return true_words(shard, devices, signatures, view)[: threshold(COUNT) - 1]


def colluder_words(shard, devices, signatures, view):
    """A colluder's word, as often as needed: it signs whatever the server likes."""

    colluder = view[0]
    t3 = transcript.survivors_hash(shard._t1, view)
    sig = devices[colluder]._member.identity.sign(transcript.CONSISTENT_SIG, t3, u16(colluder))
    return (SurvivorSig(t3, colluder, sig),) * threshold(COUNT)


STORIES = [
    (no_words, "check_survivor_signatures", CountError),
    (true_words, "check_survivor_signatures", CountError),
    (one_short, "check_survivor_signatures", CountError),
    (all_words, "check_survivor_signatures", ConsistencyError),
    (forged_words, "check_survivor_signature", ConsistencyError),
    (colluder_words, "check_signers", ConsistencyError),
]


@pytest.mark.parametrize(("words_for", "removed", "error"), STORIES, ids=lambda each: getattr(each, "__name__", None))
def test_different_survivors_for_different_devices(words_for, removed, error, monkeypatch):
    fleet = Fleet(COUNT, d=D)
    _, _, _, replies = two_stories(fleet, words_for)
    for device, request in replies.values():
        with pytest.raises(error):
            device.step(request, NOW_S)
        assert_gone(device, error)
    monkeypatch.setattr(checks, removed, lambda *args: None)
    shard, vectors, wanted, replies = two_stories(fleet, words_for)
    stolen = open_few(shard, vectors, wanted, collect(replies))
    assert len(wanted) < threshold(COUNT)
    assert np.array_equal(stolen, sum(steps_of(fleet, shard, index) for index in wanted))


# ---- survivors that are too few, unknown, or not in order ------------------------------------------------------------------------
def test_too_few_survivors():
    fleet = Fleet(COUNT, d=D)
    shard, devices, _ = masked_round(fleet)
    for size in (2, 6):
        for index in range(size):
            if devices[index].phase is Phase.MASKED:
                with pytest.raises(CountError):
                    devices[index].step(Survivors(shard._t1, EVERYBODY[:size]), NOW_S)
                assert_gone(devices[index], CountError)
    assert devices[8].step(Survivors(shard._t1, EVERYBODY[2:9]), NOW_S)


def test_too_few_survivors_are_opened_without_the_check(monkeypatch):
    """With t devices that help, the sum of two is opened: a colluder's, known, and the victim's."""
    monkeypatch.setattr(checks, "check_quorum", lambda plan, left, count: None)
    monkeypatch.setattr(checks, "check_survivors", lambda survivors, sharers, index: None)
    fleet = Fleet(COUNT, d=D)
    shard, devices, vectors = masked_round(fleet)
    left = (2, 5)
    signatures = confirm(devices, shard, dict.fromkeys(EVERYBODY, left))
    monkeypatch.setattr(checks, "check_signers", lambda *args: None)
    request = UnmaskReq(shard._t1, left, tuple(signatures.values()))
    shares = {index: shares_in(device.step(request, NOW_S)[0]) for index, device in devices.items()}
    total = opened(shard, vectors, left, shares)
    assert np.array_equal(total - steps_of(fleet, shard, 5), steps_of(fleet, shard, 2))


ODD_SURVIVORS = {
    "not the device itself": lambda u2: tuple(index for index in u2 if index != 0),
    "somebody who never shared keys": lambda u2: (*u2, 9),
    "an index beyond the roster": lambda u2: (*u2, 10),
    "out of order": lambda u2: (*u2[1:], u2[0]),
    "somebody twice": lambda u2: (u2[0], *u2),
    "nobody": lambda u2: (),
}


@pytest.mark.parametrize("name", ODD_SURVIVORS)
def test_odd_survivors(name):
    fleet = Fleet(COUNT, d=D)
    shard, by_id = fleet.shard(fleet.devices())
    ids = [each.device_id for each in shard.roster.members]
    victim = by_id[ids[0]]
    for index, device_id in enumerate(ids[:9]):  # number 9 never shares keys
        shard.receive(device_id, by_id[device_id].step(shard.roster, NOW_S)[0], NOW_S)
        assert index < 9
    victim.step(shard.close_phase(NOW_S)[ids[0]], NOW_S)
    with pytest.raises(ConsistencyError):
        victim.step(Survivors(shard._t1, ODD_SURVIVORS[name](EVERYBODY[:9])), NOW_S)
    assert_gone(victim, ConsistencyError)


def test_a_second_set_of_survivors():
    """A device signs one set an attempt: the second, equal or not, ends it."""
    for second in (EVERYBODY, EVERYBODY[1:]):
        shard, devices, _ = masked_round(Fleet(COUNT, d=D))
        devices[4].step(Survivors(shard._t1, EVERYBODY), NOW_S)
        with pytest.raises(PhaseError):
            devices[4].step(Survivors(shard._t1, second), NOW_S)
        assert_gone(devices[4], PhaseError)


@pytest.mark.parametrize("change", [lambda u3: u3[1:], lambda u3: (u3[0], *u3), lambda u3: u3[::-1]])
def test_unmask_for_other_survivors_than_were_signed(change):
    """The victim struck out, listed twice, or the order changed, in the very last message."""
    shard, devices, _ = masked_round(Fleet(COUNT, d=D))
    signatures = confirm(devices, shard, dict.fromkeys(EVERYBODY, EVERYBODY))
    with pytest.raises(ConsistencyError):
        devices[4].step(UnmaskReq(shard._t1, change(EVERYBODY), tuple(signatures.values())), NOW_S)
    assert_gone(devices[4], ConsistencyError)
    assert devices[5].step(UnmaskReq(shard._t1, EVERYBODY, tuple(signatures.values())), NOW_S)


def test_signatures_of_devices_that_are_no_survivors():
    shard, devices, _ = masked_round(Fleet(COUNT, d=D))
    left = EVERYBODY[:7]
    signatures = confirm({index: devices[index] for index in left}, shard, dict.fromkeys(left, left))
    stranger = replace(signatures[0], src=9)
    with pytest.raises(ConsistencyError):
        devices[1].step(UnmaskReq(shard._t1, left, (*list(signatures.values())[1:], stranger)), NOW_S)
    assert_gone(devices[1], ConsistencyError)


@pytest.mark.parametrize("phase", [Phase.MASKED, Phase.CONSISTENCY, Phase.UNMASK])
def test_a_message_of_another_round(phase):
    """Everything names its transcript: what belongs to another round, attempt or shard is refused."""
    fleet = Fleet(COUNT, d=D)
    shard, by_id = fleet.shard(fleet.devices())
    device_id, message = next(iter(run_to(shard, by_id, phase).items()))
    victim = by_id[device_id]
    with pytest.raises(ConsistencyError):
        victim.step(replace(message, t1=bytes(32)), NOW_S)
    assert_gone(victim, ConsistencyError)


# ---- boxes -------------------------------------------------------------------------------------------------------------------------
def flip(box):
    return Box(box.dst, bytes([box.ct[0] ^ 1]) + box.ct[1:])


BOXES = {
    "bit flipped": lambda boxes, src: ((flip(boxes[0]), *boxes[1:]), src),
    "meant for another": lambda boxes, src: ((Box(boxes[0].dst + 1, boxes[0].ct), *boxes[1:]), src),
    "from another": lambda boxes, src: ((boxes[1], boxes[0], *boxes[2:]), src),
    "one sender twice": lambda boxes, src: (boxes, (src[1], *src[1:])),
    "own box back": lambda boxes, src: (boxes, (0, *src[1:])),
    "a sender beyond the roster": lambda boxes, src: (boxes, (*src[:-1], 10)),
    "senders out of order": lambda boxes, src: (boxes, src[::-1]),
    "a box without a sender": lambda boxes, src: (boxes, src[:-1]),
    "all of the same": lambda boxes, src: ((boxes[0],) * len(boxes), src),
}


@pytest.mark.parametrize("name", BOXES)
def test_tampered_boxes(name):
    fleet = Fleet(COUNT, d=D)
    shard, by_id = fleet.shard(fleet.devices())
    outgoing = run_to(shard, by_id, Phase.MASKED)
    ids = [each.device_id for each in shard.roster.members]
    inbox, victim = outgoing[ids[0]], by_id[ids[0]]
    boxes, src = BOXES[name](inbox.boxes, inbox.src)
    with pytest.raises(BoxError):
        victim.step(replace(inbox, boxes=boxes, src=src), NOW_S)
    assert_gone(victim, BoxError)
    assert not victim.is_uploaded
    assert by_id[ids[1]].step(outgoing[ids[1]], NOW_S)


def test_a_damaged_box_names_its_sender():
    fleet = Fleet(COUNT, d=D)
    shard, by_id = fleet.shard(fleet.devices())
    outgoing = run_to(shard, by_id, Phase.MASKED)
    inbox, victim = outgoing[shard.roster.members[2].device_id], by_id[shard.roster.members[2].device_id]
    with pytest.raises(BoxError):
        victim.step(replace(inbox, boxes=(*inbox.boxes[:5], flip(inbox.boxes[5]), *inbox.boxes[6:])), NOW_S)
    assert victim.abort.culprit == inbox.src[5]


@pytest.mark.parametrize("left", [1, 5])
def test_too_few_boxes(left):
    """Boxes of fewer than the quorum, the device itself counted: six of ten are one too few."""
    fleet = Fleet(COUNT, d=D)
    shard, by_id = fleet.shard(fleet.devices())
    device_id, inbox = next(iter(run_to(shard, by_id, Phase.MASKED).items()))
    with pytest.raises(CountError):
        by_id[device_id].step(replace(inbox, boxes=inbox.boxes[:left], src=inbox.src[:left]), NOW_S)
    assert_gone(by_id[device_id], CountError)
