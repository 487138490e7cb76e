"""What leaves a device in a round, byte by byte; and what comes of bytes that are sent again, elsewhere or changed."""

import os

import numpy as np
import pytest
from scripts.in_process import one_verification
from tests.support.rounds import Small

from earmark_shared.errors import PolicyError, ProtocolError
from earmark_shared.round import Abort, Phase
from earmark_shared.shapes import Message, shapes
from earmark_shared.wire import envelope, policy


@pytest.fixture(autouse=True)
def swift():
    with one_verification():
        yield


class Recorder:
    """Keeps every byte that leaves a device."""

    def __init__(self):
        self.sent = []

    def __call__(self, device, phase, sent):
        self.sent.append((device, phase, sent))
        return sent


def kind_of(phase):
    return envelope.ANSWERS[envelope.ASKED[phase - 1]]


def fields_in(message, found=()):
    """Yield every (message, field) with its value, through messages in messages."""
    for name in shapes(type(message)):
        value = getattr(message, name)
        yield type(message).__name__, name, value
        for item in value if isinstance(value, tuple) else ():
            if isinstance(item, Message):
                yield from fields_in(item)


def test_every_field_that_leaves_a_device_is_listed_as_leaving_it(tmp_path):
    small, recorder = Small(tmp_path / "rounds", 7), Recorder()
    small.network(tap=recorder).run(small.coordinator)
    leaving = {(item.message, item.field) for item in policy.policy() if item.leaves_device}
    seen = {
        (name, field)
        for _, phase, sent in recorder.sent
        for message in envelope.unpack(sent, (kind_of(phase), Abort))
        for name, field, _ in fields_in(message)
    }
    assert len(recorder.sent) == 7 * 5
    assert seen <= leaving
    assert ("MaskedChunk", "data") in seen


def test_devices_with_different_data_send_the_same_number_of_bytes(tmp_path):
    small, recorder = Small(tmp_path / "rounds", 6), Recorder()
    places = iter(range(6))
    for alias in small.devices:  # from nothing at all to the longest update there is
        small.updates[alias][:] = next(places) * 7.0
    small.network(tap=recorder).run(small.coordinator)
    for phase in envelope.ASKED:
        sizes = {len(sent) for _, now, sent in recorder.sent if envelope.ASKED[now - 1] is phase}
        assert len(sizes) == 1, phase


def test_the_update_does_not_stand_in_what_is_sent(tmp_path):
    """The masked words of a device are as far from its update as chance has it; unmasked (the control) they are the update."""
    small, recorder = Small(tmp_path / "rounds", 6), Recorder()
    run = small.network(tap=recorder).run(small.coordinator)
    for device, phase, sent in recorder.sent:
        if phase is Phase.MASKED:
            (chunk,) = envelope.unpack(sent, (kind_of(phase),))
            words = np.frombuffer(chunk.data, "<u4")[1:].view("<i4")
            own = small.updates[device] * run.plan.scale
            assert np.abs(words - own).max() > 2**24


def test_a_field_that_the_policy_does_not_list_is_not_sent(tmp_path, monkeypatch):
    small = Small(tmp_path / "rounds", 6)
    listed = policy.listed()
    monkeypatch.setattr(policy, "listed", lambda: listed - {("ShareKeys", "b_commit")})
    policy.check_listed.cache_clear()
    try:
        with pytest.raises(PolicyError, match=r"ShareKeys"):
            small.network().run(small.coordinator)
    finally:
        policy.check_listed.cache_clear()
    assert not small.coordinator.model.version > small.first.version


def test_every_stored_table_and_every_message_is_in_the_policy():
    from earmark_client.store.schema import MIGRATIONS
    from earmark_shared import enrolment, releasing
    from earmark_shared import round as rounds

    tables = {
        statement.split()[3 if "VIRTUAL" in statement else 2].strip("(")
        for migration in MIGRATIONS
        for statement in migration
        if statement.startswith(("CREATE TABLE", "CREATE VIRTUAL TABLE"))
    }
    listed = {item.field for item in policy.policy() if item.message == "(stored table)"}
    assert tables and tables <= listed
    for module in (rounds, enrolment, releasing):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message:
                policy.check_listed(kind)


def test_what_is_sent_again_in_the_same_round_is_refused_and_changes_nothing(tmp_path):
    small, network = Small(tmp_path / "rounds", 6), None
    recorder = Recorder()
    network = small.network(tap=recorder)
    run = small.coordinator.begin(network.now_s)
    accepted, carry = [], network.carry

    def carry_twice(round_run, outgoing):
        carry(round_run, outgoing)
        for device, phase, sent in list(recorder.sent):
            for message in envelope.unpack(sent, (kind_of(phase), Abort)):
                try:
                    round_run.receive(device, message, network.now_s)
                    accepted.append((phase, type(message)))
                except ProtocolError:
                    pass

    network.carry = carry_twice
    network.drive(run)
    small.coordinator.finish(run)
    assert accepted == []
    mean = small.mean_of(small.devices)
    assert np.abs(run.sums[0].steps / run.plan.scale / 6 - mean).max() <= 1 / run.plan.scale


def test_a_whole_round_replayed_into_the_next_is_refused(tmp_path):
    small, recorder = Small(tmp_path / "rounds", 6), Recorder()
    network = small.network(tap=recorder)
    network.run(small.coordinator)
    old = {(device, phase): sent for device, phase, sent in recorder.sent}
    network.tap = lambda device, phase, sent: old[device, phase]
    run = network.run(small.coordinator)
    assert not run.sums
    assert len(network.refused) == 6
    assert small.coordinator.model.version == small.first.version + 1


@pytest.mark.parametrize("phase", list(Phase)[1:6], ids=lambda phase: phase.name)
def test_another_devices_message_is_not_taken_for_ones_own(tmp_path, phase):
    small, recorder = Small(tmp_path / "rounds", 8), Recorder()
    victim, thief = sorted(small.devices)[:2]

    def splice(device, now, sent):
        recorder(device, now, sent)
        stolen = [bytes_ for who, when, bytes_ in recorder.sent if who == victim and when is phase]
        return stolen[0] if now is phase and device == thief and stolen else sent

    order = {victim: small.devices.pop(victim)}
    small.devices = order | small.devices
    network = small.network(tap=splice)
    run = network.run(small.coordinator)
    assert network.refused
    assert thief not in run.sums[0].survivors or phase > Phase.MASKED


def test_a_device_answers_a_replayed_server_message_with_nothing_but_an_abort(tmp_path):
    small = Small(tmp_path / "rounds", 6)
    network = small.network()
    inbound, ask = [], network.ask

    def remember(letters):
        inbound.extend(letters)
        return ask(letters)

    network.ask = remember
    network.run(small.coordinator)
    assert len(inbound) == 5 * len(small.devices)
    for _, kind, packed in ask(list(inbound)):
        assert [type(each) for each in envelope.unpack(packed, (envelope.ANSWERS[kind], Abort))] == [Abort]
    assert all(len(ledger.reserved) == len(ledger.committed) + len(ledger.released) for ledger in small.ledgers.values())
    assert all(len(ledger.committed) == 1 for ledger in small.ledgers.values())


@pytest.mark.parametrize("size", [0, 1, 4, 5, 200, 5_000_000])
def test_rubbish_from_a_device_is_a_device_that_says_nothing(tmp_path, size):
    small = Small(tmp_path / "rounds", 7)
    rude = min(small.devices)
    rubbish = os.urandom(size)
    network = small.network(tap=lambda device, phase, sent: rubbish if device == rude and phase is Phase.MASKED else sent)
    run = network.run(small.coordinator)
    assert set(run.sums[0].survivors) == set(small.devices) - {rude}
