"""D5: a server that goes on with devices that have left the round, to open what nobody has paid for."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from scripts.in_process import NOW_S
from tests.support.fleet import swift_verification
from tests.support.rounds import LAB, FixedTrainer, Small, lab_profile, real_ledger

from earmark_client.federation import participant
from earmark_client.learn.ledger_rows import State
from earmark_shared.errors import (
    BudgetError,
    DiskFullError,
    EarmarkError,
    HomeInUseError,
    LedgerRollbackError,
    MalformedError,
    ModelError,
    PolicyError,
)
from earmark_shared.round import Abort, Advertise, Phase, Roster
from earmark_shared.secagg import transcript
from earmark_shared.secagg.device import Device
from earmark_shared.secagg.server import Shard

COUNT = 5
pytestmark = pytest.mark.usefixtures("epsilons_once")


@pytest.fixture(autouse=True)
def _swift():
    with swift_verification():
        yield


class Lying:
    """A server that holds a signed plan and what the devices answered it, and gives each of them a reason to leave."""

    def __init__(self, folder, z):
        self.small = Small(folder, COUNT, profile=lab_profile(z=z), ledgers=[real_ledger() for _ in range(COUNT)])
        self.plan = self.small.coordinator._sign(self.small.coordinator._plan(NOW_S))
        self.advertised = self.told(self.plan)
        assert {type(each) for each in self.advertised.values()} == {Advertise}

    @property
    def ledger(self):
        """One of the devices' ledgers, and the states that its newest row went through."""
        return next(iter(self.small.ledgers.values()))

    @property
    def states(self):
        return [row.state for row in self.ledger.rows() if row.state != State.OPENED]

    def told(self, message):
        """What each device answers, the last part of it."""
        return {alias: each.answer(message, NOW_S)[-1] for alias, each in self.small.devices.items()}

    def open(self):
        """Run the rest of the round by the book, and return how many updates were opened together."""
        members = tuple(self.advertised[alias] for alias in sorted(self.advertised))
        shard = Shard(self.plan, Roster(transcript.plan_hash(self.plan), 0, members), floors=LAB, now_s=NOW_S)
        out = dict.fromkeys(self.advertised, shard.roster)
        while not shard.is_over:
            for alias, message in out.items():
                for answer in self.small.devices[alias].answer(message, NOW_S):
                    shard.receive(alias, answer, NOW_S)
            out = shard.close_phase(NOW_S)
        return len(shard.total.survivors)


def rubbish(server):
    return {alias: each.refuse(MalformedError("no message")) for alias, each in server.small.devices.items()}


def one_plan_three_times(server):
    """The second time is the retry that a plan allows."""
    server.advertised = server.told(server.plan)
    return server.told(server.plan)


def roster_of_one(server):
    return server.told(Roster(transcript.plan_hash(server.plan), 0, tuple(server.advertised.values())[:1]))


PROVOCATIONS = [(rubbish, 0.0), (one_plan_three_times, 4.0), (roster_of_one, 0.0)]


@pytest.mark.parametrize(("provoke", "z"), PROVOCATIONS)
def test_a_device_that_left_a_round_takes_no_further_part_in_it(tmp_path, provoke, z):
    server = Lying(tmp_path / "rounds", z)
    assert {type(each) for each in provoke(server).values()} == {Abort}
    with pytest.raises(EarmarkError):
        server.open()
    assert server.states[-1] == State.RELEASED
    assert server.ledger.spent().record == 0
    assert {each._live.device.phase for each in server.small.devices.values()} == {Phase.ABORTED}


@pytest.mark.parametrize(("provoke", "z"), PROVOCATIONS[:2])
def test_control_a_device_that_goes_on_is_opened_and_has_paid_nothing(tmp_path, monkeypatch, provoke, z):
    monkeypatch.setattr(Device, "cancel", lambda self: None)
    monkeypatch.setattr(participant._Live, "is_refused", property(lambda self: False, lambda self, value: None), raising=False)
    server = Lying(tmp_path / "rounds", z)
    provoke(server)
    assert server.open() == COUNT
    assert State.COMMITTED not in server.states
    assert server.ledger.spent().record == 0


@pytest.mark.parametrize("end", ["close", "refuse", "another attempt"])
def test_a_round_that_ends_from_outside_leaves_no_secrets(tmp_path, end):
    server = Lying(tmp_path / "rounds", 0.0)
    device = next(iter(server.small.devices.values()))
    secrets = device._live.device._secrets
    assert np.frombuffer(bytes(secrets.self_seed), np.uint8).any()
    if end == "close":
        device.close()
    elif end == "refuse":
        device.refuse(MalformedError("no message"))
    else:
        assert isinstance(device.answer(server.plan, NOW_S)[0], Advertise)
    assert not any(secrets.self_seed)
    assert not any(secrets.mask_key.private)


# ---- what a training that fails, or takes its time, tells ---------------------------------------------------------------------------
class FailingTrainer(FixedTrainer):
    """Trains, and fails by what it found."""

    def update(self, paid):
        raise ModelError("the weights ran away")


def failing(folder):
    """A device whose training fails, asked once; its ledger."""
    small = Small(folder, COUNT, profile=lab_profile(), ledgers=[real_ledger() for _ in range(COUNT)])
    alias, device = next(iter(small.devices.items()))
    device._world = replace(device._world, trainer=lambda plan: FailingTrainer(small.updates[alias]))
    (answer,) = device.answer(small.coordinator._sign(small.coordinator._plan(NOW_S)), NOW_S)
    assert isinstance(answer, Abort)
    return small.ledgers[alias]


def test_a_training_that_failed_is_spent_since_that_it_failed_tells_something(tmp_path):
    ledger = failing(tmp_path / "rounds")
    assert [row.state for row in ledger.rows()][1:] == [State.RESERVED, State.COMMITTED]
    with pytest.raises(BudgetError, match="one round a day"):
        participant.check_daily(ledger.rows(), now_s=NOW_S)


def test_control_otherwise_a_server_learns_a_bit_of_it_for_nothing_and_as_often_as_it_likes(tmp_path, monkeypatch):
    monkeypatch.setattr(participant._Live, "is_training", property(lambda self: False, lambda self, value: None), raising=False)
    ledger = failing(tmp_path / "rounds")
    assert ledger.spent().record == 0
    participant.check_daily(ledger.rows(), now_s=NOW_S)


def test_a_server_times_few_trainings_a_day_whatever_comes_of_them(tmp_path):
    ledger = real_ledger()
    small = Small(tmp_path / "rounds", COUNT, profile=lab_profile(), ledgers=[ledger, *(real_ledger() for _ in range(COUNT - 1))])
    device = next(iter(small.devices.values()))
    for _ in range(participant.TRAININGS_A_DAY_MOST):
        participant.check_daily(ledger.rows(), now_s=NOW_S)
        assert isinstance(device.answer(small.coordinator._sign(small.coordinator._plan(NOW_S)), NOW_S)[0], Advertise)
        device.close()
    with pytest.raises(BudgetError, match="at most"):
        participant.check_daily(ledger.rows(), now_s=NOW_S)
    participant.check_daily(ledger.rows(), now_s=NOW_S + 86_400)


@pytest.mark.parametrize(("later_s", "is_asked_too_soon"), [(21 * 3600, True), (86_400 - 60, False)])
def test_a_server_may_ask_at_the_same_hour_each_day(tmp_path, later_s, is_asked_too_soon):
    """The second plan comes a day after the first plan, not after what became of it."""
    now = [NOW_S]
    ledgers = [real_ledger(clock=lambda: now[0]) for _ in range(COUNT)]
    server = Small(tmp_path / "rounds", COUNT, profile=lab_profile(), ledgers=ledgers)
    network = server.network()
    network.run(server.coordinator)
    rows = [row for row in ledgers[0].rows() if row.state == State.RESERVED]
    settled = [replace(row, state=State.COMMITTED, at_s=row.at_s + 900) for row in rows]
    with pytest.raises(BudgetError) if is_asked_too_soon else nullcontext():
        participant.check_daily([*rows, *settled], now_s=NOW_S + later_s)


# ---- a person who changes their mind -------------------------------------------------------------------------------------------------
def changed_mind(server):
    """The person of the first device pauses it; that device."""
    device = next(iter(server.small.devices.values()))

    def unwilling(_member):
        raise PolicyError("Taking part is paused.")

    device._world = replace(device._world, check_willing=unwilling)
    return device


@pytest.mark.parametrize("is_retry", [False, True])
def test_a_person_who_pauses_in_the_middle_of_a_round_takes_no_further_part(tmp_path, is_retry):
    server = Lying(tmp_path / "rounds", 0.0)
    roster = Roster(transcript.plan_hash(server.plan), 0, tuple(server.advertised[alias] for alias in sorted(server.advertised)))
    (answer,) = changed_mind(server).answer(server.plan if is_retry else roster, NOW_S)
    assert isinstance(answer, Abort)
    assert server.states[-1] == State.RELEASED


def test_control_one_who_does_not_sends_on(tmp_path):
    server = Lying(tmp_path / "rounds", 0.0)
    assert server.open() == COUNT


def test_clips_of_an_epoch_that_is_renewed_meanwhile_do_not_train(tmp_path):
    now = [NOW_S - 366 * 86_400]
    ledger = real_ledger(clock=lambda: now[0])
    small = Small(tmp_path / "rounds", COUNT, profile=lab_profile(), ledgers=[ledger, *(real_ledger() for _ in range(COUNT - 1))])
    alias, device = next(iter(small.devices.items()))
    now[0] = NOW_S
    plan = small.coordinator._sign(small.coordinator._plan(NOW_S))

    def reads_for_long(_plan):
        ledger.renew()
        return FixedTrainer(small.updates[alias])

    device._world = replace(device._world, trainer=reads_for_long)
    assert isinstance(device.answer(plan, NOW_S)[0], Abort)
    assert "epoch" in str(device.error)
    assert ledger.rows()[-1].state == State.RELEASED


# ---- what is wrong here is nobody else's business -------------------------------------------------------------------------------------
@pytest.mark.parametrize("fault", [HomeInUseError, DiskFullError, LedgerRollbackError])
def test_a_ledger_that_cannot_be_written_shows_as_a_code_and_stays_reserved(tmp_path, monkeypatch, fault):
    server = Lying(tmp_path / "rounds", 0.0)
    device = next(iter(server.small.devices.values()))

    def settle(*_):
        raise fault

    monkeypatch.setattr(server.ledger, "_settle", settle)
    (answer,) = device.answer(Roster(transcript.plan_hash(server.plan), 0, tuple(server.advertised.values())[:1]), NOW_S)
    assert isinstance(answer, Abort)
    assert isinstance(device.error, fault)
    assert server.states == [State.RESERVED]
    monkeypatch.undo()
    with swift_verification():
        device.close()
    assert server.states[-1] == State.RELEASED
