"""A person who pauses takes part in no round: not in one that begins, nor when the program starts again."""

from types import SimpleNamespace

import pytest
from tests.support.homes import new_database

from earmark_client.federation import enrol
from earmark_client.federation.device import RoundDevice
from earmark_client.federation.identity import check_not_paused, set_paused
from earmark_shared.errors import AdmissionError, PolicyError


def test_a_paused_device_answers_no_plan_and_a_resumed_one_does(tmp_path):
    database = new_database(tmp_path)
    device = RoundDevice(SimpleNamespace(database=database, lock=pytest.MonkeyPatch.context), None, None, lambda: 0.0)
    set_paused(database, is_paused=True)
    with pytest.raises(PolicyError, match="paused"):
        device.member(0)
    set_paused(database, is_paused=False)
    with pytest.raises(AdmissionError):  # the control: it would go on, if it had joined anything
        device.member(0)
    check_not_paused(database)


def test_a_device_that_was_paused_or_left_since_a_round_began_is_not_willing(tmp_path, monkeypatch):
    database = new_database(tmp_path)
    device = RoundDevice(SimpleNamespace(database=database), None, None, lambda: 0.0)
    member = SimpleNamespace(certificate=b"mine")
    monkeypatch.setattr(enrol, "joined", lambda _: member)
    device.check_willing(member)
    set_paused(database, is_paused=True)
    with pytest.raises(PolicyError, match="paused"):
        device.check_willing(member)
    set_paused(database, is_paused=False)
    with pytest.raises(PolicyError, match="another federation"):
        device.check_willing(SimpleNamespace(certificate=b"another"))
    monkeypatch.undo()
    with pytest.raises(AdmissionError):
        device.check_willing(member)
