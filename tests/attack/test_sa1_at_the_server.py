"""Devices and networks that misbehave towards the server: refused, nothing changed, and the honest rest goes on."""

from dataclasses import replace

import numpy as np
import pytest
from tests.support.fleet import LAB, NOW_S, Fleet, Stream, drive, expected_sum, run_to, swift_verification
from tests.support.plunder import Puppet, masked_round

from earmark_shared.errors import (
    ConsistencyError,
    CountError,
    DeadlineError,
    MalformedError,
    NormError,
    PhaseError,
    PolicyError,
    ProtocolError,
    RosterError,
)
from earmark_shared.round import CHUNK_SIZE, Abort, Floors, Phase, Roster, UnmaskShare
from earmark_shared.secagg import server
from earmark_shared.secagg.attempt import NoisyUpdate
from earmark_shared.secagg.chunks import Upload, chunk
from earmark_shared.secagg.forming import Lobby
from earmark_shared.secagg.masking import MaskSeeds, mask

COUNT = 9  # t = 6


@pytest.fixture(autouse=True)
def _swift():
    with swift_verification():
        yield


def finish(shard, by_id, outgoing):
    while not shard.is_over:
        for device_id, message in outgoing.items():
            for reply in by_id[device_id].step(message, NOW_S):
                shard.receive(device_id, reply, NOW_S)
        outgoing = shard.close_phase(NOW_S)
    return shard.total


def ready(phase, **options):
    """Return a fleet, its shard waiting for `phase`'s answers, devices by id, what they are to answer, and their ids in order."""
    fleet = Fleet(COUNT, **{"d": 6, **options})
    shard, by_id = fleet.shard(fleet.devices())
    outgoing = run_to(shard, by_id, phase)
    return fleet, shard, by_id, outgoing, [each.device_id for each in shard.roster.members]


# ---- coming forward ------------------------------------------------------------------------------------------------------------------
def test_only_enrolled_devices_come_forward_once_and_as_themselves():
    fleet = Fleet(COUNT)
    devices = fleet.devices()
    lobby = fleet.lobby(devices[:-1])
    last = devices[-1].start(NOW_S)
    stranger = Puppet(0, fleet.member(99, authority=fleet.members[0].identity)).advertise(fleet.plan)
    copied = replace(last, mask_pk=devices[0]._own.mask_pk)
    for sender, advertise, error in [
        (stranger.device_id, stranger, RosterError),
        (devices[0]._own.device_id, last, RosterError),
        (last.device_id, replace(last, sig=bytes(64)), RosterError),
        (last.device_id, replace(last, plan_hash=bytes(32)), RosterError),
        (last.device_id, copied, RosterError),
        (devices[0]._own.device_id, devices[0]._own, PhaseError),
    ]:
        with pytest.raises(error):
            lobby.receive(sender, advertise, NOW_S)
        assert len(lobby) == COUNT - 1
    with pytest.raises(DeadlineError):
        lobby.receive(last.device_id, last, lobby.deadline_s + 1)
    lobby.receive(last.device_id, last, lobby.deadline_s)
    assert len(lobby.form_shards(Stream(0), NOW_S)[0].roster.members) == COUNT


@pytest.mark.parametrize(("floors", "count", "least"), [(LAB, 4, 5), (Floors(), 31, 32)])
def test_a_cohort_one_short_forms_no_shard(floors, count, least):
    """S9 at the server: no shard below the floor, and none of fewer than 32 outside a lab."""
    fleet = Fleet(least, floors=floors)
    devices = fleet.devices()
    with pytest.raises(CountError):
        fleet.lobby(devices[:count]).form_shards(Stream(0), NOW_S)
    control = Fleet(least, floors=floors)
    assert control.lobby(control.devices()).form_shards(Stream(0), NOW_S)


def test_a_server_keeps_the_floor_whatever_its_plan_says():
    fleet = Fleet(COUNT)
    with pytest.raises(PolicyError):
        Lobby(fleet.plan, fleet.enrolment(), floors=Floors(), now_s=NOW_S)
    roster = Roster(
        server.transcript.plan_hash(fleet.plan),
        0,
        tuple(sorted((d.start(NOW_S) for d in fleet.devices()[:4]), key=lambda a: a.device_id)),
    )
    with pytest.raises(PolicyError):
        server.Shard(fleet.plan, roster, floors=LAB, now_s=NOW_S)


@pytest.mark.parametrize("phase", [Phase.SHARE_KEYS, Phase.MASKED])
def test_a_cohort_that_falls_below_the_floor_is_never_opened(phase):
    """n_min 8 of 9 devices with t = 6: seven answers would open the sum, and must not."""
    fleet = Fleet(COUNT, floors=Floors(n_min=8, lab=True))
    shard, by_id = fleet.shard(fleet.devices())
    with pytest.raises(CountError):
        drive(shard, by_id, drops=[(phase, device_id) for device_id in sorted(by_id)[:2]])
    assert shard.total is None
    with pytest.raises(PhaseError):
        shard.close_phase(NOW_S)
    control = Fleet(COUNT, floors=Floors(n_min=8, lab=True))
    shard, by_id = control.shard(control.devices())
    assert drive(shard, by_id, drops=[(phase, min(by_id))])


def test_many_devices_are_dealt_into_shards_of_the_right_size():
    fleet = Fleet(70, d=1, floors=Floors(), changes={"n_max": 40, "shards": 1})
    shards = fleet.lobby(fleet.devices()).form_shards(Stream(0), NOW_S)
    assert sorted(len(each.roster.members) for each in shards) == [35, 35]
    everybody = [entry.device_id for each in shards for entry in each.roster.members]
    assert len(set(everybody)) == 70


# ---- replay and impersonation (T2) -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("phase", [Phase.SHARE_KEYS, Phase.MASKED, Phase.CONSISTENCY, Phase.UNMASK])
def test_replays_and_impersonations_change_nothing(phase):
    fleet, shard, by_id, outgoing, ids = ready(phase)
    replies = {device_id: by_id[device_id].step(message, NOW_S) for device_id, message in outgoing.items()}
    for device_id in ids:
        for reply in replies[device_id]:
            with pytest.raises(ProtocolError):
                shard.receive(ids[ids.index(device_id) - 1], reply, NOW_S)  # as somebody else
            with pytest.raises(RosterError):
                shard.receive(b"nobody's id here", reply, NOW_S)
            with pytest.raises(DeadlineError):
                shard.receive(device_id, reply, shard.deadline_s + 1)
            shard.receive(device_id, reply, NOW_S)
            with pytest.raises(PhaseError):
                shard.receive(device_id, reply, NOW_S)  # again
    assert shard.is_complete
    total = finish(shard, by_id, shard.close_phase(NOW_S))
    for device_id in ids:
        for reply in replies[device_id]:
            with pytest.raises(ProtocolError):
                shard.receive(device_id, reply, NOW_S)  # after the round
    assert np.array_equal(total.steps, expected_sum(shard, by_id, fleet))


def test_control_without_the_check_a_replay_is_taken(monkeypatch):
    _, shard, by_id, outgoing, ids = ready(Phase.MASKED)
    chunks = by_id[ids[0]].step(outgoing[ids[0]], NOW_S)
    monkeypatch.setattr(server.Shard, "_answered", lambda shard: set())
    for sent in (*chunks, *chunks):
        shard.receive(ids[0], sent, NOW_S)
    words = np.concatenate([np.frombuffer(sent.data, "<u4") for sent in chunks])
    assert np.array_equal(shard._sum, 2 * words), "the same vector was added twice"


@pytest.mark.parametrize("phase", [Phase.SHARE_KEYS, Phase.MASKED, Phase.CONSISTENCY, Phase.UNMASK])
def test_messages_of_another_round_are_refused(phase):
    _, _, other_by_id, other_outgoing, _ = ready(phase, seed=0, changes={"round_id": b"another round id"})
    fleet, shard, by_id, outgoing, ids = ready(phase)
    for device_id in ids:
        for reply in other_by_id[device_id].step(other_outgoing[device_id], NOW_S):
            with pytest.raises(ConsistencyError):
                shard.receive(device_id, reply, NOW_S)
    assert np.array_equal(finish(shard, by_id, outgoing).steps, expected_sum(shard, by_id, fleet))


def test_an_abort_is_a_drop_out():
    fleet, shard, by_id, outgoing, ids = ready(Phase.MASKED)
    with pytest.raises(ConsistencyError):
        shard.receive(ids[0], Abort(bytes(16), 3, 4, 0xFFFF), NOW_S)
    shard.receive(ids[0], Abort(fleet.plan.round_id, 3, 4, 0xFFFF), NOW_S)
    del outgoing[ids[0]]
    for device_id in ids[1:]:
        assert not shard.is_complete
        for reply in by_id[device_id].step(outgoing[device_id], NOW_S):
            shard.receive(device_id, reply, NOW_S)
    assert shard.is_complete
    total = finish(shard, by_id, shard.close_phase(NOW_S))
    assert total.survivors == tuple(ids[1:])
    assert np.array_equal(total.steps, expected_sum(shard, by_id, fleet))


# ---- masked vectors --------------------------------------------------------------------------------------------------------------------
def sender_and_chunks(words, t1=b"1" * 32, src=0):
    fleet = Fleet(COUNT)
    sender = fleet.device(0).start(NOW_S)
    parts = chunk(words, fleet.members[0].identity, t1=t1, src=src)
    return parts, Upload(sender, t1=b"1" * 32, src=0, dimension=len(words) - 1)


WORDS = np.arange(600_000, dtype="<u4")


def test_chunks_make_the_vector_again():
    parts, upload = sender_and_chunks(WORDS)
    assert [len(part.data) for part in parts] == [CHUNK_SIZE, CHUNK_SIZE, 2_400_000 - 2 * CHUNK_SIZE]
    assert upload.add(parts[0]) is None
    assert upload.add(parts[1]) is None
    assert np.array_equal(upload.add(parts[2]), WORDS)


CHANGES = {
    "data flipped": ({"data": b"\1" + bytes(CHUNK_SIZE - 1)}, MalformedError),
    "hash of something else": ({"sha256": bytes(32)}, MalformedError),
    "another place": ({"seq": 2}, MalformedError),
    "another count": ({"of": 2}, MalformedError),
    "another device": ({"src": 1}, MalformedError),
    "another round": ({"t1": bytes(32)}, ConsistencyError),
    "shorter": ({"data": bytes(5)}, MalformedError),
    "signed too early": ({"sig": bytes(64)}, MalformedError),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_chunks_are_refused_and_change_nothing(name):
    changes, error = CHANGES[name]
    parts, upload = sender_and_chunks(WORDS)
    upload.add(parts[0])
    with pytest.raises(error):
        upload.add(replace(parts[1], **changes))
    with pytest.raises(PhaseError):
        upload.add(parts[0])
    upload.add(parts[1])
    for wrong in (bytes(64), b""):
        with pytest.raises(MalformedError):
            upload.add(replace(parts[2], sig=wrong))
    assert upload.add(parts[2]) is not None


def test_a_chunk_spliced_in_from_another_round():
    """Same device, same place, another round's bytes: the running hash and the signature over T1 don't fit."""
    parts, upload = sender_and_chunks(WORDS)
    others, _ = sender_and_chunks(WORDS[::-1].copy())
    upload.add(parts[0])
    with pytest.raises(MalformedError):
        upload.add(others[1])
    upload.add(parts[1])
    with pytest.raises(MalformedError):
        upload.add(others[2])
    stale, _ = sender_and_chunks(WORDS, t1=b"2" * 32)
    with pytest.raises(MalformedError):
        upload.add(replace(stale[2], t1=b"1" * 32))
    assert upload.add(parts[2]) is not None


def test_half_a_vector_counts_for_nothing_and_is_forgotten():
    fleet, shard, by_id, outgoing, ids = ready(Phase.MASKED, d=300_000)
    for device_id in ids:
        parts = by_id[device_id].step(outgoing[device_id], NOW_S)
        for part in parts[:1] if device_id == ids[3] else parts:
            shard.receive(device_id, part, NOW_S)
    total = finish(shard, by_id, shard.close_phase(NOW_S))
    assert ids[3] not in total.survivors
    assert np.array_equal(total.steps, expected_sum(shard, by_id, fleet))


def test_vectors_under_way_are_bounded(monkeypatch):
    monkeypatch.setattr(server, "UPLOADS_SIZE_MOST", 3 * 1_200_004)
    _, shard, by_id, outgoing, ids = ready(Phase.MASKED, d=300_000)
    parts = {device_id: by_id[device_id].step(outgoing[device_id], NOW_S) for device_id in ids}
    for device_id in ids[:3]:
        shard.receive(device_id, parts[device_id][0], NOW_S)
    with pytest.raises(CountError, match="under way"):
        shard.receive(ids[3], parts[ids[3]][0], NOW_S)
    shard.receive(ids[0], parts[ids[0]][1], NOW_S)
    shard.receive(ids[3], parts[ids[3]][0], NOW_S)


# ---- what devices can send that fits, and is false ---------------------------------------------------------------------------------------
def lie_in_shares(reply):
    changed = [UnmaskShare(each.of, each.is_mask_key, bytes(33)) for each in reply.shares]
    return replace(reply, shares=tuple(changed))


@pytest.mark.parametrize("liars", [1, 2])
def test_false_shares_are_found_out(liars):
    fleet, shard, by_id, outgoing, ids = ready(Phase.UNMASK)
    for device_id in ids:
        (reply,) = by_id[device_id].step(outgoing[device_id], NOW_S)
        shard.receive(device_id, lie_in_shares(reply) if device_id in ids[:liars] else reply, NOW_S)
    shard.close_phase(NOW_S)
    assert np.array_equal(shard.total.steps, expected_sum(shard, by_id, fleet))


def test_too_many_false_shares_open_nothing():
    _, shard, by_id, outgoing, ids = ready(Phase.UNMASK)
    for device_id in ids:
        (reply,) = by_id[device_id].step(outgoing[device_id], NOW_S)
        shard.receive(device_id, lie_in_shares(reply) if device_id in ids[:4] else reply, NOW_S)
    with pytest.raises(CountError) as caught:
        shard.close_phase(NOW_S)
    assert caught.value.culprit == 0
    assert shard.total is None


@pytest.mark.parametrize("change", ["fewer", "other kind", "another's", "not asked for"])
def test_shares_that_were_not_asked_for(change):
    _, shard, by_id, outgoing, ids = ready(Phase.UNMASK)
    (reply,) = by_id[ids[0]].step(outgoing[ids[0]], NOW_S)
    first = reply.shares[0]
    shares = {
        "fewer": reply.shares[1:],
        "other kind": (replace(first, is_mask_key=True), *reply.shares[1:]),
        "another's": (replace(first, of=1), *reply.shares[1:]),
        "not asked for": (*reply.shares, replace(first, of=40)),
    }[change]
    with pytest.raises(MalformedError):
        shard.receive(ids[0], replace(reply, shares=shares), NOW_S)
    shard.receive(ids[0], reply, NOW_S)


@pytest.mark.parametrize("change", [lambda boxes: boxes[1:], lambda boxes: boxes[::-1], lambda boxes: (boxes[0],) * len(boxes)])
def test_boxes_that_are_not_one_each(change):
    _, shard, by_id, outgoing, ids = ready(Phase.SHARE_KEYS)
    (reply,) = by_id[ids[0]].step(outgoing[ids[0]], NOW_S)
    with pytest.raises(MalformedError):
        shard.receive(ids[0], replace(reply, boxes=change(reply.boxes)), NOW_S)
    shard.receive(ids[0], reply, NOW_S)


def sum_with_liar(monkeypatch, count_as, update):
    """Return how a round ends in which device 0 says it is `count_as` devices and sends `update`."""
    fleet = Fleet(COUNT, d=4)
    shard, by_id = fleet.shard(fleet.devices())
    liar = by_id[shard.roster.members[0].device_id]

    def false_mask(noisy, seeds):
        words = mask(noisy, MaskSeeds())
        if noisy is liar._update._steps:
            words[0], words[1:] = count_as, np.array(update, dtype=np.int64).astype("<i4").view("<u4")
        server.np.add(words, mask(np.zeros(4, dtype=np.int64), seeds), out=words)
        words[0] -= 1
        return words

    monkeypatch.setattr("earmark_shared.secagg.device.mask", false_mask)
    return drive(shard, by_id)


def test_a_device_that_counts_as_two():
    with pytest.MonkeyPatch.context() as patch, pytest.raises(CountError, match="counts 10 devices"):
        sum_with_liar(patch, 2, [0] * 4)
    with pytest.MonkeyPatch.context() as patch:
        assert sum_with_liar(patch, 1, [0] * 4)


@pytest.mark.parametrize("update", [[2**31 - 1] * 4, [2**30, 0, 0, 0], [-(2**30), 0, 0, 0], [300_000, 0, 0, 0]])
def test_a_device_whose_update_is_too_large(update):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(NormError):
        sum_with_liar(patch, 1, update)


def test_a_device_never_masks_what_would_wrap():
    fleet = Fleet(COUNT, d=2)
    huge = NoisyUpdate(fleet.plan, np.zeros(2, dtype=np.int64), lambda stddev, size: np.full(size, 2**30))
    assert huge.with_noise(1.0).max() == 2**30
    with pytest.raises(NormError):
        mask(huge.with_noise(1.0), MaskSeeds())


def test_honest_masks_are_in_the_shard():
    fleet = Fleet(COUNT, d=2)
    shard, devices, vectors = masked_round(fleet)
    assert shard.is_complete
    assert len(devices) == len(vectors) == COUNT
