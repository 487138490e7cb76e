"""Rounds from the plan to the next head, on the product's own state machines: exact sums, drop-outs, floors, kills, retries."""

from dataclasses import replace

import numpy as np
import pytest
from scripts.in_process import NOW_S, YEAR_S, one_verification

from earmark_server.checkpoint import HEADS_KEPT, Checkpoint
from earmark_server.coordinator import Judge, Profile, describe
from earmark_shared.errors import ModelError, PhaseError, PolicyError
from earmark_shared.head import first_head, flatten
from earmark_shared.round import Floors, Phase
from earmark_shared.secagg import checks
from earmark_shared.secagg.device import Device as SecureDevice
from tests.support.rounds import LAB, Small, lab_profile, real_ledger

pytestmark = pytest.mark.usefixtures("epsilons_once")
PHASES = (Phase.SHARE_KEYS, Phase.MASKED, Phase.CONSISTENCY, Phase.UNMASK)


def moved(small):
    return flatten(small.schema, small.coordinator.model.arrays) - flatten(small.schema, small.first.arrays)


@pytest.mark.parametrize("count", [6, 40])
def test_the_head_moves_by_exactly_the_mean_of_the_updates(tmp_path, count):
    small = Small(tmp_path / "rounds", count)
    with one_verification():
        run = small.network().run(small.coordinator)
    step = 1 / run.plan.scale
    assert sum(len(total.survivors) for total in run.sums) == count
    assert np.abs(moved(small) - small.mean_of(small.devices)).max() <= step
    assert small.coordinator.state.rounds[-1].outcome == "published"
    assert small.coordinator.model.version == small.first.version + 1


def test_rounds_follow_each_other_and_each_is_about_the_newest_head(tmp_path):
    small = Small(tmp_path / "rounds", 6)
    network = small.network()
    plans = [network.run(small.coordinator).plan for _ in range(3)]
    assert [plan.model_version for plan in plans] == [1, 2, 3]
    assert len({plan.round_id for plan in plans}) == len({plan.model_sha256 for plan in plans}) == 3


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_a_round_outlives_drop_outs_in_any_phase(tmp_path, phase):
    small = Small(tmp_path / "rounds", 10)
    gone = set(sorted(small.devices)[:2])
    run = small.network(is_silent=lambda device, now: device in gone and now >= phase).run(small.coordinator)
    summed = set(run.sums[0].survivors)
    assert summed == (set(small.devices) - gone if phase <= Phase.MASKED else set(small.devices))
    assert np.abs(moved(small) - small.mean_of(summed)).max() <= 1 / run.plan.scale


def test_a_shard_that_was_given_up_is_tried_once_more(tmp_path):
    small = Small(tmp_path / "rounds", 8)
    silent = {"phases": 0}
    few = set(sorted(small.devices)[:5])

    def is_silent(device, phase):
        silent["phases"] += phase is Phase.MASKED and device in few
        return phase is Phase.MASKED and device in few and silent["phases"] <= len(few)

    run = small.network(is_silent=is_silent).run(small.coordinator)
    assert len(run.failures) == 1
    assert set(run.sums[0].survivors) == set(small.devices)
    assert small.coordinator.state.rounds[-1].outcome == "published"
    assert all(len(ledger.committed) == 1 for ledger in small.ledgers.values())


def test_nothing_is_opened_below_the_floor_whoever_would_allow_it(tmp_path):
    small = Small(tmp_path / "rounds", 4)
    run = small.network().run(small.coordinator)
    assert not run.sums
    assert small.coordinator.state.rounds[-1].outcome == "aborted"
    assert all(ledger.released and not ledger.committed for ledger in close(small).values())


def test_a_round_that_falls_below_the_floor_is_aborted_on_both_sides(tmp_path):
    small = Small(tmp_path / "rounds", 6)
    gone = set(sorted(small.devices)[:2])
    run = small.network(is_silent=lambda device, phase: device in gone and phase >= Phase.SHARE_KEYS).run(small.coordinator)
    assert not run.sums
    assert small.coordinator.model.version == small.first.version
    assert not any(ledger.committed for ledger in close(small).values())


def test_who_ends_a_round_with_boxes_that_cannot_be_opened_is_named_to_the_operator(tmp_path, monkeypatch):
    small = Small(tmp_path / "rounds", 8)
    culprit, honest_boxes = sorted(small.devices)[3], SecureDevice._boxes

    def boxes(device):
        spoil = device._own.device_id == culprit
        return (replace(box, ct=bytes(len(box.ct))) if spoil else box for box in honest_boxes(device))

    monkeypatch.setattr(SecureDevice, "_boxes", boxes)
    small.network().run(small.coordinator)
    record = small.coordinator.state.rounds[-1]
    assert record.outcome == "aborted"
    assert f"7 devices blame {culprit.hex()}" in record.reason
    assert [alias for alias, ledger in close(small).items() if ledger.committed] == [culprit], "nobody else paid"


def test_a_device_refuses_a_plan_below_its_own_floor(tmp_path):
    small = Small(tmp_path / "rounds", 6, floors=Floors())
    run = small.network().run(small.coordinator)
    assert not run.sums
    assert all(isinstance(device.error, PolicyError) for device in small.devices.values())
    assert not any(ledger.reserved for ledger in small.ledgers.values())


def test_why_a_server_refused_whoever_came_forward_is_in_the_record_by_number(tmp_path, monkeypatch):
    """Devices that don't see that their certificates have ended: without the reason an operator reads of 0 devices."""
    monkeypatch.setattr(checks, "check_own_certificate", lambda *_, **__: None)
    small = Small(tmp_path / "rounds", 7)
    network = small.network(now_s=NOW_S + YEAR_S + 86_400)
    network.run(small.coordinator)
    record = small.coordinator.state.rounds[-1]
    assert record.outcome == "aborted"
    assert record.reason.startswith("0 devices came forward")
    assert "7 devices refused: the certificate has expired" in record.reason
    assert "7 devices refused" in describe(record)


def test_a_round_that_is_published_says_whom_it_refused(tmp_path):
    small = Small(tmp_path / "rounds", 7)
    impostor = min(small.devices)

    def tap(device, phase, sent):
        return sent[:-1] + bytes([sent[-1] ^ 1]) if device == impostor and phase is Phase.ADVERTISE else sent

    small.network(tap=tap).run(small.coordinator)
    record = small.coordinator.state.rounds[-1]
    assert (record.outcome, record.devices) == ("published", 6)
    assert record.reason.startswith("1 device refused: ")


def test_a_server_refuses_a_profile_below_the_floor(tmp_path):
    small = Small(tmp_path / "rounds", 6, profile=Profile(n_min=5, is_lab=False))
    with pytest.raises(PolicyError):
        small.coordinator.begin(small.network().now_s)


def close(small):
    for device in small.devices.values():
        device.close()
    return small.ledgers


@pytest.mark.parametrize("phase", [Phase.ADVERTISE, *PHASES], ids=lambda phase: phase.name)
def test_a_server_killed_in_any_phase_goes_on_with_the_next_round(tmp_path, phase):
    small = Small(tmp_path / "rounds", 6)

    class Killed(Exception):
        pass

    def tap(device, now, sent):
        if now is phase:
            raise Killed
        return sent

    with pytest.raises(Killed):
        small.network(tap=tap).run(small.coordinator)
    before = small.coordinator.state
    small.restart()
    assert small.coordinator.state.rounds[-1].outcome == "lost"
    assert small.coordinator.model.sha256.hex() == before.head
    network = small.network(now_s=small.network().now_s + 100)
    assert network.run(small.coordinator).sums
    states = [record.outcome for record in small.coordinator.state.rounds]
    assert states == ["lost", "published"]


@pytest.mark.parametrize("dies_in", ["gate", "publish"])
def test_a_candidate_outlives_the_server_and_is_published_once(tmp_path, dies_in):
    published, crash = [], {"on": True}

    def gate(old, new):
        if crash["on"] and dies_in == "gate":
            raise KeyboardInterrupt
        return {}

    def publish(candidate, report):
        if crash["on"]:
            raise KeyboardInterrupt
        published.append(candidate.version)

    small = Small(tmp_path / "rounds", 6, judge=Judge(gate, publish))
    with pytest.raises(KeyboardInterrupt):
        small.network().run(small.coordinator)
    assert small.coordinator.state.candidate
    crash["on"] = False
    small.restart()
    assert published == [2]
    assert small.coordinator.model.version == 2
    assert small.coordinator.state.rounds[-1].outcome == "published"


def test_a_candidate_that_the_gate_refuses_changes_nothing(tmp_path):
    def gate(old, new):
        raise ModelError("worse than before")

    published = []
    small = Small(tmp_path / "rounds", 6, judge=Judge(gate, lambda *args: published.append(args)))
    small.network().run(small.coordinator)
    record = small.coordinator.state.rounds[-1]
    assert (record.outcome, record.reason) == ("refused", "worse than before")
    assert not published
    assert small.coordinator.model.version == small.first.version


def test_one_round_at_a_time(tmp_path):
    small = Small(tmp_path / "rounds", 6)
    small.coordinator.begin(small.network().now_s)
    with pytest.raises(PhaseError):
        small.coordinator.begin(small.network().now_s)


def test_the_checkpoint_never_holds_what_a_device_sent(tmp_path):
    small = Small(tmp_path / "rounds", 6)
    seen = []
    small.network(tap=lambda device, phase, sent: seen.append((phase, sent)) or sent).run(small.coordinator)
    stored = b"".join(path.read_bytes() for path in (tmp_path / "rounds").rglob("*") if path.is_file())
    masked = [sent for phase, sent in seen if phase is Phase.MASKED]
    assert len(masked) == 6
    assert not any(sent[60:124] in stored or sent[60:124].hex().encode() in stored for sent in masked)
    assert Checkpoint(tmp_path / "rounds").load() == small.coordinator.state


def test_old_heads_do_not_fill_the_disk_and_what_the_state_names_stays(tmp_path):
    small = Small(tmp_path / "rounds", 6)
    store, state = Checkpoint(tmp_path / "rounds"), small.coordinator.state
    for step in range(3 * HEADS_KEPT):
        name = store.keep(small.schema, first_head(small.schema, bytes([step])))
        state = replace(state, candidate=name, previous=state.candidate)
        store.save(state)
        assert store.arrays(small.schema, name).keys() == small.first.arrays.keys()
    left = {path.stem for path in (tmp_path / "rounds" / "heads").iterdir()}
    assert {state.head, state.candidate, state.previous} <= left
    assert len(left) == 3 + HEADS_KEPT


@pytest.mark.parametrize("z", [0.0, 1.0])
def test_the_ledger_is_charged_once_something_left_and_not_before(tmp_path, z):
    ledgers = [real_ledger() for _ in range(6)]
    small = Small(tmp_path / "rounds", 6, ledgers=ledgers, profile=lab_profile(z=z))
    run = small.network(is_silent=lambda device, phase: phase is Phase.MASKED).run(small.coordinator)
    assert not run.sums
    close(small)
    assert {ledger.spent().record for ledger in ledgers} == {0.0}
    small.network().run(small.coordinator)
    assert all(ledger.spent().record > 0 for ledger in ledgers)
    assert all((ledger.spent().device is not None) == (z > 0) for ledger in ledgers)


def test_a_round_lost_after_the_masked_update_stays_charged(tmp_path):
    ledgers = [real_ledger() for _ in range(6)]
    small = Small(tmp_path / "rounds", 6, ledgers=ledgers)
    run = small.network(is_silent=lambda device, phase: phase > Phase.MASKED).run(small.coordinator)
    assert not run.sums
    close(small)
    assert all(ledger.spent().record > 0 for ledger in ledgers)
    assert LAB.n_min == 5
