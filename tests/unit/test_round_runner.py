"""Keeping rounds going at the SuperLink: whom a run waits for, when a run counts as dead, and how many rounds there are in the end."""

import os
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.support.rounds import NOW_S, Small

from earmark_server import flower, node
from earmark_server.checkpoint import Checkpoint, Model, RoundRecord, State
from earmark_server.coordinator import DEADLINES_S
from earmark_server.flower import GATHER_S, SETTLE_S, GridTransport
from earmark_server.node import STARTS_MOST
from earmark_server.rounds import FOLDER, coordinator_lock, finished
from earmark_shared.crypto.nodes import NodeKey, load_node
from earmark_shared.errors import NetworkError
from earmark_shared.files import FileLock
from earmark_shared.head import HeadSchema, first_head

SCHEMA = HeadSchema(inputs=6, outputs=4, rank=2, trained=("up", "bias"), labels=("dog", "rain"))


class Grid:
    """Flower's grid: from a second on, so many nodes are connected."""

    def __init__(self, clock, arrivals):
        keys = [NodeKey.create().public for _ in arrivals]
        self._clock, self._arrivals = clock, arrivals
        self._nodes = [
            SimpleNamespace(
                node_id=place, public_key=load_node(key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            )
            for place, key in enumerate(keys)
        ]
        self.owners = {key: bytes([place]) * 16 for place, key in enumerate(keys)}

    def get_nodes(self):
        return [each for each, at_s in zip(self._nodes, self._arrivals, strict=True) if at_s <= self._clock.now_s]


@pytest.fixture
def clock(monkeypatch):
    """A clock that only sleeping moves."""
    clock = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(flower.time, "monotonic", lambda: clock.now_s)
    monkeypatch.setattr(flower.time, "sleep", lambda seconds: setattr(clock, "now_s", clock.now_s + seconds))
    return clock


def gather(clock, arrivals, least, enough, *, times=1):
    grid = Grid(clock, arrivals)
    transport = GridTransport(grid, grid.owners, os.urandom)
    for _ in range(times):
        began_s, nodes = clock.now_s, transport.gather(least, enough)
    return len(nodes), clock.now_s - began_s


def test_a_run_begins_at_once_when_everybody_is_there(clock):
    assert gather(clock, [0, 0, 4], 2, 3) == (3, 4)


def test_a_run_waits_for_a_cohort_and_then_a_little_for_the_rest(clock):
    assert gather(clock, [0, 20, 30, 200], 2, 4) == (3, 30 + SETTLE_S)


def test_who_stays_away_holds_up_no_later_round(clock):
    assert gather(clock, [0, 0, 10_000], 2, 3, times=2) == (2, 0)


def test_a_run_waits_for_a_cohort_no_longer_than_its_time(clock):
    assert gather(clock, [0, 10_000], 2, 2) == (1, GATHER_S)


@pytest.mark.parametrize("jump_s", [0, -86_400, 3600])
def test_a_clock_that_is_set_during_a_round_moves_no_deadline(clock, monkeypatch, tmp_path, jump_s):
    set_at_s, small = 10, Small(tmp_path / "rounds", 6)
    monkeypatch.setattr(flower.time, "time", lambda: NOW_S + clock.now_s + (jump_s if clock.now_s > set_at_s else 0))
    for name in ("_push", "_pull"):
        monkeypatch.setattr(GridTransport, name, lambda *_: None)
    run = small.coordinator.begin(NOW_S)
    GridTransport(None, {}, os.urandom).drive(run, dict.fromkeys(small.devices, 1))
    assert run.is_over
    assert "0 devices came forward" in str(run.failures[0])
    assert clock.now_s == pytest.approx(DEADLINES_S[0], abs=2)


class SuperLink:
    """The SuperLink's Control interface; a run does what `app` says and then is what it returns."""

    def __init__(self, app):
        self.app, self.started, self.running, self.stopped, self.state = app, [], [7], [], "running"
        self.errors = {}

    def start_run(self, until):
        self.started.append(until)
        self.running.append(len(self.started))
        self.state = self.app(len(self.started))
        return len(self.started)

    def stop_runs(self):
        self.stopped += self.running
        self.running = []

    def has_ended(self, run_id):
        return self.state.startswith("finished")

    def run_error(self, run_id):
        return self.errors.get(run_id, "")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run rounds with such a SuperLink; what was told."""
    checkpoint = Checkpoint(tmp_path / FOLDER)
    checkpoint.begin(Model(0, SCHEMA, first_head(SCHEMA, b"test")))
    authority = SimpleNamespace(places=SimpleNamespace(folder=tmp_path))
    monkeypatch.setattr(node, "WATCH_S", 0.0)

    def running(superlink, rounds):
        @contextmanager
        def opened(*_):
            yield superlink

        monkeypatch.setattr(node, "open_control", opened)
        told = []
        node.run_rounds(authority, 1, rounds=rounds, tell=told.append, warn=running.warned.append)
        return told

    running.checkpoint, running.folder, running.warned = checkpoint, tmp_path, []
    return running


def record(checkpoint, *outcomes):
    """Write down rounds with these outcomes."""
    state = checkpoint.load()
    rounds = tuple(RoundRecord(place + 1, "00", "", 0, outcome=outcome) for place, outcome in enumerate(outcomes))
    checkpoint.save(State(state.version, state.head, state.schema, rounds))


def test_a_run_that_ended_after_its_last_round_is_not_started_again(run):
    def app(_):
        record(run.checkpoint, "published", "aborted")
        return "finished:completed"

    superlink = SuperLink(app)
    run(superlink, 2)
    assert superlink.started == [2]


def test_what_is_still_judged_is_not_told_and_not_counted(run):
    record(run.checkpoint, "published", "candidate")
    assert finished(run.checkpoint.load()) == 1

    def app(_):
        record(run.checkpoint, "published", "published")
        return "finished:completed"

    superlink = SuperLink(app)
    told = run(superlink, 1)
    assert superlink.started == [2]
    assert told == ["round 2: published as version 1, 0 devices"]


def test_a_run_whose_process_died_is_ended_and_followed_by_another_before_the_superlink_notices(run, monkeypatch):
    held = iter([False, True, False, False, False])
    monkeypatch.setattr(FileLock, "is_held", lambda lock: next(held, False))

    def app(number):
        if number == 2:
            record(run.checkpoint, "lost", "published")
        return "running"

    superlink = SuperLink(app)
    run(superlink, 1)
    assert (superlink.started, superlink.stopped, superlink.running) == ([1, 1], [7, 1], [2])


def test_somebody_elses_run_is_waited_for(run, monkeypatch):
    looks = iter([(), (), ("published",)])

    def wait(_):
        record(run.checkpoint, *next(looks))

    monkeypatch.setattr(node.time, "sleep", wait)
    superlink = SuperLink(None)
    with coordinator_lock(run.folder):
        run(superlink, 1)
    assert not superlink.started


def test_runs_that_come_to_nothing_are_given_up_but_not_those_that_get_on(run):
    superlink = SuperLink(lambda _: "finished:failed")
    with pytest.raises(NetworkError, match="again and again"):
        run(superlink, 1)
    assert len(superlink.started) == STARTS_MOST

    def app(number):
        record(run.checkpoint, *["published"] * (number // 2))
        return "finished:failed"

    superlink = SuperLink(app)
    run(superlink, 2 * STARTS_MOST)
    assert len(superlink.started) == 4 * STARTS_MOST


def test_runs_that_die_of_one_thing_are_given_up_at_once_and_it_is_said(run):
    superlink = SuperLink(lambda _: "finished:failed")
    superlink.errors = {1: "a key is gone", 2: "the disk is full", 3: "the disk is full"}
    with pytest.raises(NetworkError, match="the disk is full") as given_up:
        run(superlink, 1)
    assert "mend that" in given_up.value.hint
    assert run.warned == ["a run died: a key is gone"] + ["a run died: the disk is full"] * 2
    assert len(superlink.started) == 3


def test_one_thing_that_comes_back_after_rounds_that_ended_is_another_one(run):
    def app(number):
        record(run.checkpoint, *["published"] * (number // 2))
        return "finished:failed"

    superlink = SuperLink(app)
    superlink.errors = dict.fromkeys(range(0, 10, 2), "the SuperLink was restarted")
    run(superlink, 3)
    assert len(superlink.started) == 6
