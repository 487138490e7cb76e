"""Whatever is released and taken back, and whenever a device asks: what it searches with was tried for a day, and was not taken back."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from earmark_client import updating
from earmark_client.model.active import ActiveState
from earmark_shared.release import Release, undoing

HOUR_S, DAY_S = 3600, 86_400
EVENTS = st.lists(st.tuples(st.sampled_from(["release", "take back", "ask", "ask"]), st.integers(1, 40)), max_size=40)


class Federation:
    """Releases with a head each, as the server numbers them, and which of them were taken back."""

    def __init__(self):
        self.releases, self.bad = [], set()

    @property
    def newest(self):
        return self.releases[-1] if self.releases else None

    def release(self):
        number = len(self.releases) + 1
        self._add(f"{number:012x}" + "0" * 52, self.newest.undone if self.newest else ())

    def take_back(self, hours):
        """Release one of the heads before the newest again."""
        if len(self.releases) > 1:
            number = 1 + hours % (len(self.releases) - 1)
            self.bad |= set(range(number + 1, len(self.releases) + 1))
            newest = self.newest
            self._add(self.releases[number - 1].head_sha256, undoing(newest.undone, number, newest.number))

    def _add(self, head, undone):
        self.releases.append(Release(len(self.releases) + 1, "base", head, "f" * 64, undone))


class Device:
    """The state of a device that is no canary, without the vectors that change with it."""

    def __init__(self):
        self.meta = {}
        no_line = {}.get
        database = SimpleNamespace(
            get_meta=self.meta.get, set_meta=self.meta.__setitem__, transaction=self._transaction, federation_value=no_line
        )
        self.home = SimpleNamespace(database=database)
        self.seen_s, self.changed_s = {}, 0
        self.heads = {}

    @contextmanager
    def _transaction(self):
        yield

    @property
    def state(self):
        return updating.read_state(self.home.database)

    @property
    def number(self):
        return self.state.active.number if self.state.active else 0

    def ask(self, newest, now_s):
        self.seen_s.setdefault(newest.number, now_s)
        self.heads[newest.number] = newest.head_sha256
        updating.receive(self.home, None, newest, tries_first=False, now_s=now_s)


@pytest.fixture
def bare(monkeypatch):
    """Updates that change the state and nothing else."""
    monkeypatch.setattr(updating, "_check_fits", lambda *_: None)
    monkeypatch.setattr(updating, "_switch", lambda home, _target, after, _show: home.database.set_meta("model", after.to_json()))


def follow(events):
    """Every ask: the device before and after it, what was newest, and when."""
    federation, device, now_s = Federation(), Device(), 1_800_000_000
    for kind, hours in events:
        now_s += hours * HOUR_S
        if kind == "release":
            federation.release()
        elif kind == "take back":
            federation.take_back(hours)
        elif federation.newest is not None:
            before = device.number
            device.ask(federation.newest, now_s)
            yield federation, device, before, now_s
            if device.number != before:
                device.changed_s = now_s


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS)
def test_what_comes_into_force_was_tried_and_not_taken_back_and_something_does(bare, events):
    for federation, device, before, now_s in follow(events):
        newest, number = federation.newest, device.number
        assert number >= before
        assert device.state.newest == newest, "rounds are about the newest release"
        is_same_head = device.heads.get(before) == newest.head_sha256
        if number > before:
            assert number not in federation.bad
            assert before in federation.bad or is_same_head or now_s >= device.seen_s[number] + DAY_S
        elif before < newest.number:
            assert before not in federation.bad
            assert not is_same_head
            pending_s = [seen_s for seen, seen_s in device.seen_s.items() if seen > before and seen not in federation.bad]
            assert now_s < max(min(pending_s), device.changed_s) + DAY_S, "something has waited long enough"


def test_control_without_its_turn_nothing_comes_into_force_where_each_day_has_a_release(bare, monkeypatch):
    daily = [event for _ in range(9) for event in (("release", 1), ("ask", 23))]
    assert [device.number for _, device, _, _ in follow(daily)] == list(range(9))

    def newest_waits_anew(home, model, release, *, tries_first, now_s):
        state = updating.read_state(home.database)
        if state.waiting == release and now_s >= state.waiting_since_s + DAY_S:
            updating.install(home, model, release)
        elif state.waiting != release:
            home.database.set_meta("model", ActiveState(waiting=release, waiting_since_s=now_s, latest=release).to_json())

    monkeypatch.setattr(updating, "receive", newest_waits_anew)
    assert {device.number for _, device, _, _ in follow(daily)} == {0}
