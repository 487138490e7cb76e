"""Releases that no round made: rounds go on from what devices have, not from what the server's checkpoint remembers."""

import time
from dataclasses import replace

import numpy as np
import pytest

from earmark_server.checkpoint import Checkpoint, Model, RoundRecord
from earmark_server.coordinator import Judge, no_gate, publish_nowhere
from earmark_server.publish import create_repository
from earmark_server.rounds import Rounds, finished
from earmark_server.running import News
from earmark_shared.base_head import base_arrays, base_schema, base_version
from earmark_shared.errors import CandidateError, ReleaseError
from tests.support.federation import Federation
from tests.support.releases import some_head
from tests.support.rounds import JUDGE, NOW_S, SCHEMA, Small


def head(step):
    arrays = base_arrays()
    return arrays | {"up": arrays["up"] + np.float32(step)}


@pytest.fixture
def server(tmp_path):
    made = Federation(tmp_path / "srv", is_lab=True)
    made.close()
    places = made.authority.places
    made.repository = create_repository(places.tuf_root.parent, places.release_keys, clock=time.time)
    made.folder = tmp_path / "srv"
    for step in (0.01, 0.02):
        made.repository.publish(head(step), base_schema(), base=base_version())
    return made


def newest(server):
    with Rounds.open(server.folder) as rounds:
        return rounds.coordinator.model


def test_rounds_begin_with_the_head_that_devices_have_and_follow_it_back(server):
    assert newest(server).version == 2
    server.repository.take_back(1)
    found = newest(server)
    assert found.version == 3
    np.testing.assert_array_equal(found.arrays["up"], head(0.01)["up"])


def test_rounds_that_are_under_way_follow_what_is_taken_back_and_published_meanwhile(server):
    with Rounds.open(server.folder) as rounds:
        assert rounds.coordinator.begin(NOW_S).plan.model_version == 2
        rounds.coordinator._save(rounds.coordinator.state.with_last(outcome="aborted"))
        server.repository.take_back(1)
        assert not rounds.coordinator.review()
        assert rounds.coordinator.begin(NOW_S).plan.model_version == 3
        rounds.coordinator._save(rounds.coordinator.state.with_last(outcome="aborted"))
        server.repository.publish(head(0.03), base_schema(), base=base_version())
        plan = rounds.coordinator.begin(NOW_S).plan
    assert (plan.model_version, plan.model_sha256) == (4, Model(4, base_schema(), head(0.03)).sha256)


def test_control_without_catching_up_the_next_head_can_not_be_released(server, monkeypatch):
    assert newest(server).version == 2
    server.repository.take_back(1)
    monkeypatch.setattr(Checkpoint, "catch_up", lambda *_: None)
    stale = newest(server)
    with pytest.raises(ReleaseError, match="can't follow"):
        server.repository.publish(head(0.03), base_schema(), base=base_version(), number=stale.version + 1)


def test_a_candidate_whose_number_was_taken_is_given_up_and_one_that_is_out_already_is_not(tmp_path):
    store = Checkpoint(tmp_path / "rounds")
    candidate, other = (Model(2, SCHEMA, some_head(seed, SCHEMA)) for seed in (2, 3))
    state = store.begin(Model(1, SCHEMA, some_head(1, SCHEMA)))
    record = RoundRecord(1, "00", "00", 1, outcome="candidate")
    store.save(replace(state, rounds=(record,), candidate=store.keep(SCHEMA, candidate.arrays)))
    store.catch_up(candidate)
    assert store.load().candidate == candidate.sha256.hex()
    store.catch_up(other)
    assert store.load().candidate == ""
    assert store.load().rounds[-1].outcome == "refused"
    assert store.model(store.load()).sha256 == other.sha256


class Gate:
    """A gate that can be told to refuse."""

    def __init__(self):
        self.is_strict, self.published = False, []

    def judge(self):
        return Judge(self.gate, lambda candidate, report: self.published.append(candidate.version))

    def gate(self, old, new):
        if self.is_strict:
            raise CandidateError("it misses dog")
        return {}


def outcomes(small):
    return [(record.number, record.outcome) for record in small.coordinator.state.rounds]


@pytest.mark.parametrize("after", ["aborted", "lost"])
def test_the_round_that_made_a_bad_head_is_marked_and_told_and_no_other(tmp_path, after):
    gate, told = Gate(), []
    small = Small(tmp_path / "rounds", 6, judge=gate.judge())
    small.network().run(small.coordinator)
    if after == "aborted":
        small.network(is_silent=lambda device, phase: True).run(small.coordinator)
    else:
        small.coordinator.begin(NOW_S)
        small.restart()
    news = News(Checkpoint(tmp_path / "rounds"), told.append)
    before, gate.is_strict = finished(small.coordinator.state), True
    assert small.coordinator.review()
    assert outcomes(small) == [(1, "taken back"), (2, after)]
    assert finished(small.coordinator.state) == before, "a lost round never counts"
    assert gate.published == [2, 3]
    assert news.tell() == before
    assert told == ["round 1: version 2 taken back, 6 devices: it misses dog"]
    news.tell()
    News(Checkpoint(tmp_path / "rounds"), told.append).tell()
    assert len(told) == 1


def test_a_candidate_whose_number_is_taken_during_its_round_ends_that_round_alone(tmp_path):
    newest = []
    small = Small(tmp_path / "rounds", 6, judge=Judge(no_gate, publish_nowhere, lambda: newest[-1] if newest else None))
    run = small.coordinator.begin(NOW_S)
    small.network().drive(run)
    newest.append(Model(2, SCHEMA, some_head(2, SCHEMA)))
    record = small.coordinator.finish(run)
    assert (record.outcome, record.reason) == ("refused", "release 2 came before it")
    small.network().run(small.coordinator)
    assert outcomes(small) == [(1, "refused"), (2, "published")]
    assert small.coordinator.model.version == 3


@pytest.mark.parametrize("number", [2, 4])
def test_a_head_that_is_out_is_adopted_though_the_gate_would_refuse_it_now(tmp_path, number):
    """The server stopped after it published and before it wrote that down; then the public set grew. (4: it was taken back and forth.)"""
    gate, newest = Gate(), []

    def publish(candidate, report):
        newest.append(replace(candidate, version=number))
        raise KeyboardInterrupt

    small = Small(tmp_path / "rounds", 6, judge=Judge(gate.gate, publish, lambda: newest[-1] if newest else None))
    with pytest.raises(KeyboardInterrupt):
        small.network().run(small.coordinator)
    gate.is_strict, small.judge = True, Judge(gate.gate, lambda model, _: newest.append(model), small.judge.newest)
    small.restart()
    assert outcomes(small) == [(1, "published")]
    assert small.coordinator.model.version == number
    assert small.coordinator.review(), "and judged by what the gate knows now"
    assert outcomes(small) == [(1, "taken back")]
    assert (newest[-1].version, newest[-1].sha256) == (number + 1, small.first.sha256)


def test_what_an_operator_takes_back_is_marked_too(tmp_path):
    small = Small(tmp_path / "rounds", 6)
    first = small.coordinator.model
    small.network().run(small.coordinator)
    Checkpoint(tmp_path / "rounds").catch_up(replace(first, version=3))
    small.restart()
    assert outcomes(small) == [(1, "taken back")]
    assert (small.coordinator.model.version, small.coordinator.model.sha256) == (3, first.sha256)


def test_a_head_that_is_good_stays_and_a_first_one_is_not_judged(tmp_path):
    small = Small(tmp_path / "rounds", 6, judge=JUDGE)
    assert not small.coordinator.review()
    small.network().run(small.coordinator)
    assert small.coordinator.state.previous
    assert not small.coordinator.review()
    assert small.coordinator.model.version == 2
