"""The ledger spends what it says, refuses what would be too much, and can't be talked out of either."""

import dataclasses
import sqlite3

import pytest
from tests.support.privacy import KEY, SMALL, Clock, MemoryAnchor, PlainStorage, charge

from earmark_client.learn import ledger as ledger_module
from earmark_client.learn.anchor import KeyringAnchor
from earmark_client.learn.ledger import DAY_S, YEAR_S, Anchored, Budget, Ledger
from earmark_client.learn.ledger_rows import State
from earmark_client.store.database import Database
from earmark_shared.errors import BudgetError, ClockError, LedgerError, LedgerRollbackError, ReplayedPlanError, StoreError
from earmark_shared.privacy.accountant import DeviceGaussian, SampledGaussian, device_epsilon, record_epsilon

pytestmark = pytest.mark.usefixtures("epsilons_once")
LARGE = SampledGaussian(noise_multiplier=1.2, sampling_probability=0.125, steps=8)


class House:
    """A device with a ledger, and everything around it that a test may meddle with."""

    def __init__(self, budget=None):
        self.storage, self.clock, self.anchor, self.budget = PlainStorage(), Clock(), MemoryAnchor(), budget

    def ledger(self):
        return Ledger(self.storage, KEY, clock=self.clock, anchor=self.anchor, budget=self.budget)

    def snapshot(self):
        copy = sqlite3.connect(":memory:", isolation_level=None)
        self.storage.connection.backup(copy)
        return copy


@pytest.fixture
def house():
    return House()


@pytest.fixture
def cheap(monkeypatch):
    """Epsilon by a plain sum: these tests are about which events count, and dp_accounting is not fast."""
    monkeypatch.setattr(ledger_module, "record_epsilon", lambda events, delta: sum(event.steps for event in events) / 10)
    monkeypatch.setattr(
        ledger_module, "device_epsilon", lambda events, delta: sum(1 / event.noise_multiplier for event in events)
    )


def test_a_reservation_is_spent_before_anything_happens(house):
    ledger = house.ledger()
    assert ledger.spent().record == 0.0
    after = ledger.reserve(charge(1))
    assert after.record == after.record_month == record_epsilon([SMALL]) == ledger.spent().record
    assert house.ledger().spent() == after


def test_what_was_sent_stays_spent_and_what_was_not_is_given_back(house, cheap):
    ledger = house.ledger()
    ledger.reserve(charge(1))
    ledger.commit(charge(1))
    ledger.reserve(charge(2))
    assert ledger.spent().record == 0.8
    ledger.release(charge(2))
    assert ledger.spent().record == 0.4
    assert [row.state for row in ledger.rows()] == ["opened", "reserved", "committed", "reserved", "released"]


def test_spending_is_composed_not_added(house):
    ledger = house.ledger()
    other = dataclasses.replace(SMALL, noise_multiplier=3.0)
    ledger.reserve(charge(1, record=SMALL))
    both = ledger.reserve(charge(2, record=other)).record
    assert both == record_epsilon([SMALL, other]) < record_epsilon([SMALL]) + record_epsilon([other])


def test_the_budget_refuses_counting_the_reservation_itself(house):
    ledger = house.ledger()
    rounds = 0
    with pytest.raises(BudgetError, match="of 2 for 30 days"):
        while True:
            ledger.reserve(charge(rounds, record=LARGE))
            rounds += 1
    fits, too_much = record_epsilon([LARGE] * rounds), record_epsilon([LARGE] * (rounds + 1))
    assert fits <= 2.0 < too_much
    assert ledger.spent().record == fits
    assert len(ledger.rows()) == 1 + rounds


def test_control_without_the_check_it_would_spend_more(house, monkeypatch):
    monkeypatch.setattr(Ledger, "_check_budget", lambda *_: None)
    ledger = house.ledger()
    assert ledger.reserve(charge(1, record=dataclasses.replace(LARGE, steps=400))).record > 8.0


def test_the_month_moves_on_and_the_epoch_does_not(house, cheap):
    ledger = house.ledger()
    spent = []
    for month in range(5):
        house.clock.now_s += 31 * DAY_S
        try:
            spent.append(ledger.reserve(charge(month, record=dataclasses.replace(SMALL, steps=20))))
        except BudgetError as error:
            spent.append(str(error))
    assert [entry.record for entry in spent[:4]] == [2.0, 4.0, 6.0, 8.0]
    assert {entry.record_month for entry in spent[:4]} == {2.0}
    assert "10.00 of 8 for this data epoch" in spent[4]


def test_a_month_has_thirty_days(house, cheap):
    ledger = house.ledger()
    ledger.reserve(charge(1, record=dataclasses.replace(SMALL, steps=20)))
    house.clock.now_s += 30 * DAY_S - 1
    with pytest.raises(BudgetError):
        ledger.reserve(charge(2))
    house.clock.now_s += 1
    ledger.reserve(charge(3))


def test_a_new_budget_takes_a_year_and_a_person(house, cheap):
    ledger = house.ledger()
    ledger.reserve(charge(1, record=dataclasses.replace(SMALL, steps=20)))
    assert ledger.epoch_started_s() == 0
    house.clock.now_s += YEAR_S - 1
    for refused in (ledger.renew, ledger.check_renewable):
        with pytest.raises(BudgetError, match="365 days") as told:
            refused()
        assert told.value.hint == "days to go: 1"
    assert ledger.spent().record == 2.0, "time alone renews nothing"
    house.clock.now_s += 1
    ledger.check_renewable()
    assert ledger.spent().record == 2.0, "nor does asking"
    ledger.renew()
    assert ledger.spent().record == 0.0
    assert ledger.epoch_started_s() == int(house.clock.now_s)
    with pytest.raises(ReplayedPlanError):
        ledger.reserve(charge(1))


def test_the_device_level_is_counted_by_itself(house, cheap):
    ledger = house.ledger()
    assert ledger.reserve(charge(1, device=DeviceGaussian(4.0))).device == 0.25
    assert ledger.reserve(charge(2, device=DeviceGaussian(2.0))).device == 0.75
    assert ledger.reserve(charge(3)).device is None, "a round without device noise ends the claim"


def test_a_device_budget_refuses_rounds_without_device_noise_and_too_many_with_it():
    house = House(Budget(device_epsilon=4.0))
    ledger = house.ledger()
    with pytest.raises(BudgetError, match="no device-level noise"):
        ledger.reserve(charge(1))
    tiny = dataclasses.replace(SMALL, noise_multiplier=20.0, steps=1)
    for number in range(2, 50):
        try:
            ledger.reserve(charge(number, record=tiny, device=DeviceGaussian(4.0)))
        except BudgetError:
            break
    assert device_epsilon([DeviceGaussian(4.0)] * (number - 2)) <= 4.0 < device_epsilon([DeviceGaussian(4.0)] * (number - 1))


def test_a_retry_pays_for_the_device_level_only(house, cheap):
    ledger = house.ledger()
    first = charge(1, device=DeviceGaussian(4.0))
    ledger.reserve(first)
    again = charge(1, record=None, device=DeviceGaussian(4.0), attempt=1)
    after = ledger.reserve(again)
    assert (after.record, after.device, after.rounds) == (0.4, 0.5, 1)
    ledger.commit(again)
    ledger.commit(first)
    with pytest.raises(ReplayedPlanError):
        ledger.reserve(again)
    with pytest.raises(ReplayedPlanError):
        ledger.reserve(charge(1, record=None, device=DeviceGaussian(4.0), attempt=3))
    with pytest.raises(BudgetError, match="trains nothing"):
        ledger.reserve(charge(1, record=SMALL, device=DeviceGaussian(4.0), attempt=2))


def test_a_retry_of_what_was_taken_back_is_refused(house, cheap):
    ledger = house.ledger()
    ledger.reserve(charge(1))
    ledger.release(charge(1))
    with pytest.raises(ReplayedPlanError):
        ledger.reserve(charge(1, record=None, device=DeviceGaussian(4.0), attempt=1))


def test_only_who_reserved_may_release(house, cheap):
    house.ledger().reserve(charge(1))
    after_a_crash = house.ledger()
    with pytest.raises(LedgerError, match="only who reserved"):
        after_a_crash.release(charge(1))
    assert after_a_crash.spent().record == 0.4
    after_a_crash.commit(charge(1))


def test_what_was_committed_is_never_released(house, cheap):
    ledger = house.ledger()
    ledger.reserve(charge(1))
    ledger.commit(charge(1))
    for settle in (ledger.release, ledger.commit):
        with pytest.raises(LedgerError):
            settle(charge(1))
    with pytest.raises(LedgerError):
        ledger.commit(charge(2))


def test_settling_repeats_what_was_reserved_whatever_the_caller_says(house, cheap):
    ledger = house.ledger()
    ledger.reserve(charge(1))
    ledger.commit(dataclasses.replace(charge(1), record=dataclasses.replace(SMALL, noise_multiplier=1000.0)))
    assert ledger.rows()[-1].record == SMALL
    with pytest.raises(LedgerError):
        ledger.commit(dataclasses.replace(charge(1), plan_hash=b"x" * 32))


@pytest.mark.parametrize("nothing", [charge(1, record=None), charge(1, record=None, device=DeviceGaussian(4.0))])
def test_a_round_that_names_no_training_is_refused(house, cheap, nothing):
    with pytest.raises(BudgetError):
        house.ledger().reserve(nothing)


@pytest.mark.parametrize(
    "loose", [{"record_epsilon": 8.1}, {"record_epsilon_month": 2.1}, {"record_epsilon": 0.0}, {"device_epsilon": 0.0}]
)
def test_a_budget_is_only_ever_tightened(loose):
    Budget(record_epsilon=4.0, record_epsilon_month=1.0, device_epsilon=1.0)
    with pytest.raises(BudgetError):
        Budget(**loose)


def test_a_failed_reservation_leaves_no_row(house, cheap):
    ledger = house.ledger()
    with pytest.raises(BudgetError):
        ledger.reserve(charge(1, record=dataclasses.replace(SMALL, steps=21)))
    assert len(ledger.rows()) == 1
    ledger.reserve(charge(1))


def test_rows_are_append_only_in_the_database_itself(house, cheap):
    house.ledger().reserve(charge(1))
    for statement in ("UPDATE privacy_ledger SET steps = 1", "DELETE FROM privacy_ledger"):
        with pytest.raises(sqlite3.IntegrityError):
            house.storage.execute(statement)


class FakeKeyring:
    def __init__(self):
        self.kept = {}

    def get_password(self, service, username):
        return self.kept.get((service, username))

    def set_password(self, service, username, password):
        self.kept[service, username] = password


def test_the_keyring_anchor_reads_back_what_it_wrote():
    keyring = FakeKeyring()
    anchor = KeyringAnchor(keyring, "home", KEY)
    assert anchor.read() is None
    anchor.write(Anchored(7, bytes(range(32))))
    assert KeyringAnchor(keyring, "home", KEY).read() == Anchored(7, bytes(range(32)))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "6" + text[1:],
        lambda text: text.replace("00", "11", 1),
        lambda text: text[:-2],
        lambda _: "",
        lambda _: "x y z",
        lambda text: "-" + text,
        lambda text: text + " ",
    ],
)
def test_a_keyring_entry_that_was_changed_is_refused(spoil):
    keyring = FakeKeyring()
    anchor = KeyringAnchor(keyring, "home", KEY)
    anchor.write(Anchored(7, bytes(range(32))))
    (place,) = keyring.kept
    keyring.kept[place] = spoil(keyring.kept[place])
    with pytest.raises(LedgerRollbackError):
        anchor.read()


def test_another_homes_keyring_entry_is_refused():
    keyring = FakeKeyring()
    KeyringAnchor(keyring, "other", KEY).write(Anchored(7, bytes(32)))
    keyring.kept["earmark", "home/ledger"] = keyring.kept["earmark", "other/ledger"]
    with pytest.raises(LedgerRollbackError):
        KeyringAnchor(keyring, "home", KEY).read()


def test_a_clock_that_went_back_stops_reserving_but_not_committing(house, cheap):
    ledger = house.ledger()
    ledger.reserve(charge(1))
    house.clock.now_s -= 1
    with pytest.raises(ClockError):
        ledger.reserve(charge(2))
    with pytest.raises(ClockError):
        ledger.renew()
    ledger.commit(charge(1))
    assert ledger.spent().record == 0.4
    house.clock.now_s += 1
    ledger.reserve(charge(2))


def test_states_are_those_the_table_allows(house):
    with pytest.raises(sqlite3.IntegrityError):
        house.storage.execute(
            "INSERT INTO privacy_ledger VALUES (1, 1, x'', x'', 0, 'none', 0.0, 0.0, 0, 0.0, 'other', x'', x'')"
        )
    assert {state.value for state in State} == {"opened", "reserved", "committed", "released"}


def test_the_ledger_lives_in_the_encrypted_database(tmp_path, cheap):
    path, clock, anchor = tmp_path / "library.db", Clock(), MemoryAnchor()
    with Database.create(path, b"k" * 32) as database:
        ledger = Ledger(database, KEY, clock=clock, anchor=anchor)
        ledger.reserve(charge(1))
        with pytest.raises(StoreError, match="outside a transaction"):
            database.execute("INSERT INTO meta VALUES ('x', 1)")
    with Database.open(path, b"k" * 32) as database:
        ledger = Ledger(database, KEY, clock=clock, anchor=anchor)
        assert ledger.spent().record == 0.4
        ledger.commit(charge(1))
        with pytest.raises(StoreError), database.transaction():
            database.execute("DELETE FROM privacy_ledger")
        assert [row.state for row in ledger.rows()] == ["opened", "reserved", "committed"]
