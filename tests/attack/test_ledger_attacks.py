"""D5: a replayed plan, a clock set back, a database put back or edited. Each works when the check is taken away."""

import dataclasses

import pytest
from tests.support.privacy import KEY, SMALL, Clock, MemoryAnchor, PlainStorage, charge

from earmark_client.learn import ledger as ledger_module
from earmark_client.learn import ledger_rows
from earmark_client.learn.ledger import DAY_S, Ledger
from earmark_client.learn.ledger_rows import FIRST_HASH, State, new_row
from earmark_shared.errors import BudgetError, ClockError, LedgerError, LedgerRollbackError, ReplayedPlanError

COSTLY = dataclasses.replace(SMALL, steps=15)


class Device:
    """A device whose disk the attacker may copy, edit and put back."""

    def __init__(self):
        self.storage, self.clock, self.anchor = PlainStorage(), Clock(), MemoryAnchor()

    def ledger(self, anchor=True):
        return Ledger(self.storage, KEY, clock=self.clock, anchor=self.anchor if anchor else None)

    def copy(self):
        copy = PlainStorage()
        self.storage.connection.backup(copy.connection)
        return copy


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(ledger_module, "record_epsilon", lambda events, delta: sum(event.steps for event in events) / 10)
    device = Device()
    device.ledger()
    return device


def spend(device, number, anchor=True):
    ledger = device.ledger(anchor)
    ledger.reserve(charge(number, record=COSTLY))
    ledger.commit(charge(number, record=COSTLY))


def put_back(device, anchor):
    """Spend, put an older disk back, spend again: the attack."""
    before = device.copy()
    spend(device, 1, anchor)
    device.storage = before
    spend(device, 2, anchor)


def test_a_database_put_back_is_refused(device):
    with pytest.raises(LedgerRollbackError):
        put_back(device, anchor=True)


def test_control_without_an_anchor_a_database_put_back_spends_twice(device):
    put_back(device, anchor=False)
    assert device.ledger(anchor=False).spent().record_month == 1.5, "3.0 was spent"


@pytest.mark.parametrize("steps_back", range(1, 7))
def test_every_older_state_is_refused(device, steps_back):
    states = [device.copy()]
    for number in range(3):
        ledger = device.ledger()
        ledger.reserve(charge(number))
        states.append(device.copy())
        ledger.commit(charge(number))
        states.append(device.copy())
    device.ledger()
    device.storage = states[-1 - steps_back]
    with pytest.raises(LedgerRollbackError):
        device.ledger()


def test_another_branch_of_the_same_length_is_refused(device):
    branch = device.copy()
    spend(device, 1)
    device.storage, ours, device.anchor = branch, device.anchor, MemoryAnchor()
    device.anchor.write(dataclasses.replace(ours.anchored, counter=1, head_hash=device.ledger(anchor=False).rows()[0].sha256()))
    spend(device, 2)
    device.anchor = ours
    with pytest.raises(LedgerRollbackError):
        device.ledger()


def test_an_emptied_ledger_is_refused(device):
    spend(device, 1)
    device.storage = PlainStorage()
    with pytest.raises(LedgerRollbackError):
        device.ledger()


def test_an_emptied_anchor_is_refused(device):
    spend(device, 1)
    device.anchor = MemoryAnchor()
    with pytest.raises(LedgerRollbackError):
        device.ledger()


def test_a_crash_between_the_database_and_the_anchor_is_not_taken_for_an_attack(device, monkeypatch):
    ledger = device.ledger()
    with monkeypatch.context() as crash, pytest.raises(KeyboardInterrupt):
        crash.setattr(MemoryAnchor, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        ledger.reserve(charge(1))
    assert device.ledger().spent().record == 0.4


def test_a_first_start_cut_short_is_not_taken_for_an_attack(monkeypatch):
    device = Device()
    with monkeypatch.context() as crash, pytest.raises(KeyboardInterrupt):
        crash.setattr(MemoryAnchor, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        device.ledger()
    assert len(device.ledger().rows()) == 1


REPLAYS = {
    "the same plan": lambda first: first,
    "the same plan under another round": lambda first: dataclasses.replace(first, round_id=b"other round id.."),
    "the same round with another plan": lambda first: dataclasses.replace(first, plan_hash=b"p" * 32),
}


@pytest.mark.parametrize("settle", ["commit", "release", None])
@pytest.mark.parametrize("replay", REPLAYS)
def test_a_plan_is_paid_for_once(device, settle, replay):
    ledger = device.ledger()
    ledger.reserve(charge(1))
    if settle:
        getattr(ledger, settle)(charge(1))
    with pytest.raises(ReplayedPlanError):
        device.ledger().reserve(REPLAYS[replay](charge(1)))


def test_control_without_the_check_a_plan_runs_twice(device, monkeypatch):
    monkeypatch.setattr(ledger_module, "_check_new", lambda *_: None)
    device.ledger().reserve(charge(1))
    device.ledger().reserve(charge(1))


def set_back(device):
    """Make the clock run ahead to a month with a fresh budget, spend that too, and put the clock right again as if nothing was."""
    spend(device, 1)
    device.clock.now_s += 31 * DAY_S
    spend(device, 2)
    device.clock.now_s -= 31 * DAY_S
    device.ledger().reserve(charge(3))


def test_a_clock_set_back_is_refused(device):
    with pytest.raises(ClockError):
        set_back(device)


def test_control_without_the_check_the_clock_goes_to_and_fro(device, monkeypatch):
    monkeypatch.setattr(Ledger, "_now", lambda self, rows: int(self._clock()))
    with pytest.raises(BudgetError):  # what is dated ahead still counts: the month's limit is a second net below this one
        set_back(device)
    monkeypatch.setattr(Ledger, "_check_budget", lambda *_: None)
    device.clock.now_s += 1
    device.ledger().reserve(charge(4))
    times = [row.at_s for row in device.ledger().rows()]
    assert times != sorted(times)


EDITS = {
    "steps": "steps = 1",
    "sigma": "sigma = 100.0",
    "rate": "q = 0.001",
    "device noise": "z_eff = 9.0",
    "state": "state = 'released'",
    "time": "at_s = at_s - 40000000",
    "round": "round_id = x'00'",
    "plan": "plan_hash = x'00'",
    "attempt": "attempt = 9",
    "mechanism": "mechanism = 'other'",
    "chain": "prev_hash = x'00'",
    "type": "steps = 'many'",
    "negative": "steps = -1",
}


def edit(device, statement):
    device.storage.execute("DROP TRIGGER privacy_ledger_no_update")
    device.storage.execute("DROP TRIGGER privacy_ledger_no_delete")
    device.storage.execute(statement)


@pytest.mark.parametrize("field", EDITS)
@pytest.mark.parametrize("seq", [2, 3])
def test_an_edited_row_is_refused(device, field, seq):
    spend(device, 1)
    edit(device, f"UPDATE privacy_ledger SET {EDITS[field]} WHERE seq = {seq}")  # noqa: S608
    with pytest.raises(LedgerError):
        device.ledger(anchor=False)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM privacy_ledger WHERE seq = 2",
        "DELETE FROM privacy_ledger WHERE seq = 1",
        "UPDATE privacy_ledger SET seq = 7 WHERE seq = 3",
        (
            "INSERT INTO privacy_ledger SELECT 4, at_s, round_id, plan_hash, attempt, mechanism, sigma, q, steps, z_eff, 'released',"
            " prev_hash, mac FROM privacy_ledger WHERE seq = 3"
        ),
    ],
)
def test_rows_taken_out_moved_or_copied_are_refused(device, statement):
    spend(device, 1)
    edit(device, statement)
    with pytest.raises(LedgerError):
        device.ledger(anchor=False)


def forge(device, key):
    """Append a row of one's own that gives the spending back."""
    spend(device, 1)
    rows = device.ledger().rows()
    ledger_rows.append_row(device.storage, key, new_row(charge(1, record=COSTLY), State.RELEASED, at_s=rows[-1].at_s, after=rows))


def test_a_forged_row_is_refused(device):
    forge(device, b"guess" * 6)
    with pytest.raises(LedgerError):
        device.ledger()


def test_control_without_the_mac_a_forged_row_gives_the_budget_back(device, monkeypatch):
    monkeypatch.setattr(ledger_rows, "_mac", lambda *_: b"")
    device.storage = PlainStorage()
    device.anchor = MemoryAnchor()
    forge(device, b"guess" * 6)
    assert device.ledger().spent().record == 0.0


def test_the_first_row_follows_nothing(device):
    assert device.ledger().rows()[0].prev_hash == FIRST_HASH
