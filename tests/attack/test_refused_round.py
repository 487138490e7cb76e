"""D5: a server that goes on with devices that have left the round, to open what nobody has paid for."""

import numpy as np
import pytest
from scripts.in_process import NOW_S
from tests.support.fleet import swift_verification
from tests.support.rounds import LAB, Small, lab_profile, real_ledger

from earmark_client.federation import participant
from earmark_client.learn.ledger_rows import State
from earmark_shared.errors import EarmarkError, MalformedError
from earmark_shared.round import Abort, Advertise, Phase, Roster
from earmark_shared.secagg import transcript
from earmark_shared.secagg.device import Device
from earmark_shared.secagg.server import Shard

COUNT = 5


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
