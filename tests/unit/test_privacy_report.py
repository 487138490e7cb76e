"""D6: the report claims what the ledger can back, and says what it doesn't."""

import pytest
from tests.support.privacy import KEY, Clock, MemoryAnchor, PlainStorage, charge

from earmark_client.learn.ledger import Budget, Ledger
from earmark_client.learn.report import ASSUMPTIONS, NO_ANCHOR, NO_DEVICE_CLAIM, plain_words, privacy_report
from earmark_shared.errors import LedgerError
from earmark_shared.privacy.accountant import DeviceGaussian

GOLDEN = """\
Each clip: epsilon 0.70 of 8 spent in this data epoch, 0.70 of 2 in the last 30 days (delta 1e-05).
This device as a whole: epsilon 1.06 of 4 spent in this data epoch (delta 1e-06).
Rounds that something left this device in: 1: one masked vector each, opened only as part of a sum.
"""
SP_800_226 = ("Unit", "Neighbours", "Epsilon", "Trust", "Side channels", "Collection")


def ledger(*, anchor=True, budget=None):
    return Ledger(PlainStorage(), KEY, clock=Clock(), anchor=MemoryAnchor() if anchor else None, budget=budget)


def test_the_report_reads_as_it_should():
    mine = ledger(budget=Budget(device_epsilon=4.0))
    sent = charge(1, device=DeviceGaussian(4.0))
    mine.reserve(sent)
    mine.commit(sent)
    text = plain_words(privacy_report(mine))
    assert text.startswith(GOLDEN)
    assert text.index("Not claimed:") < text.index("What this rests on:")


def test_device_level_is_claimed_only_with_device_noise():
    mine = ledger()
    assert "nothing spent" in plain_words(privacy_report(mine))
    mine.reserve(charge(1))
    report = privacy_report(mine)
    assert report.spent.device is None
    assert NO_DEVICE_CLAIM in report.not_claimed
    assert "no epsilon is claimed" in plain_words(report)


def test_what_was_begun_and_not_finished_is_said():
    mine = ledger()
    mine.reserve(charge(1))
    assert "begun and not finished: 1" in plain_words(privacy_report(mine))


def test_without_a_keyring_the_missing_promise_is_said():
    assert NO_ANCHOR in plain_words(privacy_report(ledger(anchor=False)))
    assert NO_ANCHOR not in plain_words(privacy_report(ledger()))


def test_every_point_of_the_checklist_is_there():
    text = "\n".join(ASSUMPTIONS)
    assert [point for point in SP_800_226 if point not in text] == []


def test_a_ledger_that_was_changed_claims_nothing():
    mine = ledger()
    mine.reserve(charge(1))
    mine._storage.execute("DROP TRIGGER privacy_ledger_no_update")
    mine._storage.execute("UPDATE privacy_ledger SET sigma = 100.0 WHERE seq = 2")
    with pytest.raises(LedgerError):
        privacy_report(mine)
