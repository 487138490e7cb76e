"""S3: a server that lies in the plan, or tells devices different ones. Each plan is signed by the server's real key."""

from dataclasses import replace

import numpy as np
import pytest
from tests.support.fleet import LAB, NOW_S, Fleet, Stream, drive, run_to, sign_plan, swift_verification
from tests.support.plunder import Puppet, assert_gone, roster_of

from earmark_shared.crypto.certificates import peek
from earmark_shared.crypto.identities import Identity
from earmark_shared.errors import (
    CountError,
    DeadlineError,
    MalformedError,
    NormError,
    PhaseError,
    PlanError,
    PolicyError,
    ProtocolError,
    RosterError,
)
from earmark_shared.round import DEADLINE_GRACE_S, Floors, Phase
from earmark_shared.secagg import checks
from earmark_shared.secagg.attempt import NoisyUpdate
from earmark_shared.secagg.checks import HeldModel


@pytest.fixture(autouse=True)
def _swift():
    with swift_verification():
        yield


PLANS = {
    "n_min below the floor": ({"n_min": 4}, PolicyError),
    "n_min above n_max": ({"n_min": 50, "n_max": 49}, PolicyError),
    "n_max above the ceiling": ({"n_max": 257}, PolicyError),
    "clip too large": ({"clip_c": 10.5}, PolicyError),
    "clip zero": ({"clip_c": 0.0}, PolicyError),
    "clip negative": ({"clip_c": -1.0}, PolicyError),
    "scale too coarse": ({"log2_scale_c": 11}, PolicyError),
    "scale too fine, the modulus would wrap": ({"log2_scale_c": 19}, PolicyError),
    "noise below the profile": ({"z": 0.5}, PolicyError),
    "noise off": ({"z": 0.0}, PolicyError),
    "noise negative": ({"z": -4.0}, PolicyError),
    "noise that would wrap": ({"z": 65.0}, PolicyError),
    "no dimension": ({"d": 0}, (PlanError, PolicyError)),
    "no shard": ({"shards": 0}, PolicyError),
    "a phase without end": ({"deadline_s": (60, 60, 601, 30, 60)}, PolicyError),
    "a phase of no time": ({"deadline_s": (60, 0, 300, 30, 60)}, PolicyError),
    "a plan without end": ({"not_after": NOW_S + 90_000}, PolicyError),
    "another protocol version": ({"proto": 2}, PlanError),
    "stale": ({"not_before": NOW_S - 100, "not_after": NOW_S - 1}, PlanError),
    "not yet": ({"not_before": NOW_S + 1}, PlanError),
    "another model": ({"model_sha256": b"m" * 32}, PlanError),
    "another schema": ({"schema_sha256": b"s" * 32}, PlanError),
    "an older model": ({"model_version": 6}, PlanError),
    "another dimension": ({"d": 9}, PlanError),
    "an unknown key": ({"key_id": b"other"}, PlanError),
}


def profile_fleet():
    """A fleet whose devices ask for device-level noise of at least 1."""
    return Fleet(6, floors=Floors(n_min=5, z=1.0, lab=True), changes={"z": 1.0})


@pytest.mark.parametrize("name", PLANS)
def test_plans_that_no_device_follows(name):
    changes, error = PLANS[name]
    fleet = profile_fleet()
    plan = fleet.make_plan(**({"z": 1.0} | changes))
    update = NoisyUpdate(fleet.plan, fleet.steps(0), lambda stddev, size: np.zeros(size, dtype=np.int64))
    victim = fleet.device(0, plan=plan, update=update)
    with pytest.raises(error) as caught:
        victim.start(NOW_S)
    assert_gone(victim, caught.value)
    control = profile_fleet()
    assert control.device(0).start(NOW_S)


@pytest.mark.parametrize("least", [4, 19])
def test_a_home_that_is_no_lab_keeps_the_floor(least):
    with pytest.raises(PolicyError):
        Floors(n_min=least)
    fleet = Fleet(20, floors=Floors())
    victim = fleet.device(0, plan=fleet.make_plan(n_min=least))
    with pytest.raises(PolicyError):
        victim.start(NOW_S)
    with pytest.raises(PolicyError):
        Floors(n_min=4, lab=True)
    control = Fleet(20, floors=LAB)
    assert control.device(0, plan=control.make_plan(n_min=5)).start(NOW_S)


def test_a_replayed_round():
    fleet = Fleet(6)
    seen = replace(fleet.members[0], rounds_seen=frozenset([fleet.plan.round_id]))
    victim = fleet.device(0, member=seen)
    with pytest.raises(PlanError, match="already"):
        victim.start(NOW_S)
    assert_gone(victim, PlanError)
    control = replace(fleet.members[0], rounds_seen=frozenset([b"another round id"]))
    assert fleet.device(0, member=control).start(NOW_S)


@pytest.mark.parametrize("field", ["clip_c", "z", "n_max", "not_after", "round_id"])
def test_a_plan_changed_after_signing(field, monkeypatch):
    fleet = Fleet(6)
    changes = {"clip_c": 2.0, "z": 3.0, "n_max": 100, "not_after": NOW_S + 10, "round_id": bytes(16)}
    plan = replace(fleet.plan, **{field: changes[field]})
    victim = fleet.device(0, plan=plan)
    with pytest.raises(PlanError, match="signature"):
        victim.start(NOW_S)
    assert_gone(victim, PlanError)
    monkeypatch.setattr(checks, "check_plan_signature", lambda plan, keys: None)
    assert Fleet(6).device(0, plan=plan).start(NOW_S)


def test_a_plan_signed_by_somebody_else():
    fleet = Fleet(6)
    victim = fleet.device(0, plan=sign_plan(fleet.plan, Identity.create(Stream("somebody"))))
    with pytest.raises(PlanError):
        victim.start(NOW_S)
    assert_gone(victim, PlanError)


def another_model_for_one(fleet):
    """Tell device 0 that the model is another, as its download said too; everybody else gets the true plan."""
    plan = fleet.make_plan(model_sha256=b"poisoned model, one device only!")
    model = HeldModel(plan.model_version, plan.model_sha256, plan.schema_sha256, plan.d)
    victim = fleet.device(0, plan=plan, member=replace(fleet.members[0], model=model))
    return [victim, *(fleet.device(place) for place in range(1, fleet.count))]


def test_a_device_whose_own_certificate_has_ended_trains_for_no_plan():
    """Server and devices refuse it anyway: what it reserves and trains would be for nothing."""
    fleet = Fleet(6)
    ends_s = peek(fleet.members[0].certificate).not_after_s
    plan = fleet.make_plan(not_before=ends_s - 10, not_after=ends_s + 3600)
    assert checks.check_plan(plan, fleet.members[0], now_s=ends_s) is None
    with pytest.raises(RosterError, match="expired"):
        checks.check_plan(plan, fleet.members[0], now_s=ends_s + 1)


def test_another_model_for_one_device():
    fleet = Fleet(6, d=30)
    devices = another_model_for_one(fleet)
    roster = roster_of(fleet.plan, [each.start(NOW_S) for each in devices])
    for each in devices:
        with pytest.raises(RosterError):
            each.step(roster, NOW_S)
        assert_gone(each, RosterError)


def test_another_model_for_one_device_is_worthless_even_unchecked(monkeypatch):
    """The model is bound into every mask: with all the checks gone, what the server opens is noise."""
    monkeypatch.setattr(checks, "check_advertise", lambda *args, **options: None)
    monkeypatch.setattr(checks, "check_same_transcript", lambda claimed, own: None)
    monkeypatch.setattr(checks, "check_roster", lambda roster, plan, digest, floors: None)
    fleet = Fleet(6, d=30)
    shard, by_id = fleet.shard(another_model_for_one(fleet))
    with pytest.raises(ProtocolError):
        drive(shard, by_id)
    assert shard.total is None
    control = Fleet(6, d=30)
    shard, by_id = control.shard(control.devices())
    assert drive(shard, by_id).steps.any()


# ---- time ------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("phase", [Phase.SHARE_KEYS, Phase.MASKED, Phase.CONSISTENCY, Phase.UNMASK])
@pytest.mark.parametrize("how", ["late", "back"])
def test_a_clock_that_jumps(phase, how):
    fleet = Fleet(6, d=3)
    shard, by_id = fleet.shard(fleet.devices())
    outgoing = run_to(shard, by_id, phase)
    for device_id, victim in by_id.items():
        latest = NOW_S + fleet.plan.deadline_s[phase - 2] + DEADLINE_GRACE_S
        message = outgoing.get(device_id, shard.roster)
        if how == "late" and device_id == min(by_id):
            assert victim.step(message, latest)
            continue
        with pytest.raises(DeadlineError):
            victim.step(message, latest + 1 if how == "late" else NOW_S - 1)
        assert_gone(victim, DeadlineError)


def test_a_device_that_hears_nothing_forgets():
    victim = Fleet(6).device(0)
    victim.start(NOW_S)
    victim.expire(NOW_S + 60 + DEADLINE_GRACE_S)
    with pytest.raises(DeadlineError):
        victim.expire(NOW_S + 61 + DEADLINE_GRACE_S)
    assert_gone(victim, DeadlineError)


# ---- order -----------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("asked", [Phase.SHARE_KEYS, Phase.MASKED, Phase.CONSISTENCY, Phase.UNMASK])
@pytest.mark.parametrize("sent", [Phase.SHARE_KEYS, Phase.MASKED, Phase.CONSISTENCY, Phase.UNMASK])
def test_phases_out_of_order(asked, sent):
    """Every message of an honest round, in every phase: only its own is answered, once."""
    messages = {}
    fleet = Fleet(6, d=3)
    shard, by_id = fleet.shard(fleet.devices())
    first = min(by_id)
    for phase in (Phase.SHARE_KEYS, Phase.MASKED, Phase.CONSISTENCY, Phase.UNMASK):
        fleet = Fleet(6, d=3)
        shard, by_id = fleet.shard(fleet.devices())
        messages[phase] = run_to(shard, by_id, phase)[first]
    fleet = Fleet(6, d=3)
    shard, by_id = fleet.shard(fleet.devices())
    run_to(shard, by_id, asked)
    victim = by_id[first]
    if sent is asked:
        assert victim.step(messages[sent], NOW_S)
        with pytest.raises(PhaseError):
            victim.step(messages[sent], NOW_S)
    else:
        with pytest.raises(PhaseError):
            victim.step(messages[sent], NOW_S)
    assert_gone(victim, PhaseError)


def test_a_device_aborts_once_and_says_where():
    fleet = Fleet(6)
    victim = fleet.device(0)
    victim.start(NOW_S)
    with pytest.raises(PhaseError):
        victim.step(fleet.plan, NOW_S)
    assert (victim.abort.phase, victim.abort.culprit) == (Phase.ADVERTISE, 0xFFFF)
    assert not victim.is_uploaded


def test_an_update_that_is_too_long_never_starts():
    fleet = Fleet(6, d=4)
    with pytest.raises(NormError):
        fleet.device(0, update=NoisyUpdate(fleet.plan, np.full(4, 2**14, dtype=np.int32), None))
    with pytest.raises(NormError):
        NoisyUpdate(fleet.plan, np.zeros(5, dtype=np.int32), None)
    assert NoisyUpdate(fleet.plan, np.full(4, 2**13, dtype=np.int32), None)


def test_no_third_attempt_and_no_two_at_once():
    fleet = Fleet(6)
    update = NoisyUpdate(fleet.plan, fleet.steps(0), None)
    first, second, third = (fleet.device(0, update=update, attempt=attempt) for attempt in range(3))
    first.start(NOW_S)
    assert second.start(NOW_S)
    roster = roster_of(
        fleet.plan, [first._own, *(Puppet(place, fleet.members[place]).advertise(fleet.plan) for place in range(1, 6))]
    )
    with pytest.raises(PhaseError, match="another attempt"):
        first.step(roster, NOW_S)
    with pytest.raises(PhaseError):
        third.start(NOW_S)


def test_no_retry_after_helping_to_open():
    fleet = Fleet(6)
    update = NoisyUpdate(fleet.plan, fleet.steps(0), None)
    devices = [fleet.device(0, update=update), *(fleet.device(place) for place in range(1, 6))]
    shard, by_id = fleet.shard(devices)
    drive(shard, by_id)
    with pytest.raises(PhaseError):
        fleet.device(0, update=update, attempt=1).start(NOW_S)


def test_malformed_errors_have_a_code():
    assert {error.abort_code for error in (MalformedError, PhaseError, CountError)} == {0, 6}
