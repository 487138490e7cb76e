"""D5: kill -9 at any moment. What was sent is spent, what is spent never gets less, and the ledger opens again."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from earmark_client.learn import ledger as ledger_module
from earmark_client.learn.ledger import Ledger
from tests.house.sources import ROOT
from tests.support.privacy import KEY, SMALL, Clock, FileAnchor, PlainStorage, charge

ENOUGH = 40
"""Rounds a child runs if nobody kills it."""


def open_ledger(folder):
    return Ledger(PlainStorage(folder / "ledger.db"), KEY, clock=Clock(), anchor=FileAnchor(folder / "anchor"))


def run_rounds(folder, first, say):
    """What a device does: reserve, train, send, commit; every fourth round ends before anything is sent."""
    ledger = open_ledger(folder)
    for number in range(first, first + ENOUGH):
        say(f"asked {number}")
        ledger.reserve(charge(number))
        say(f"reserved {number}")
        if number % 4 == 3:
            say(f"released {number}")  # before the act: once released, or about to be, either is right
            ledger.release(charge(number))
        else:
            say(f"sent {number}")
            ledger.commit(charge(number))
            say(f"committed {number}")


def killed_after(acts, seconds, folder, first):
    """Fork a device, kill -9 it `seconds` after it said `acts` things, return all that it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            run_rounds(folder, first, lambda line: os.write(writing, line.encode() + b"\n"))
        finally:
            os._exit(1)
    os.close(writing)
    said = b""
    while said.count(b"\n") < acts and (heard := os.read(reading, 4096)):
        said += heard
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        said += pipe.read()
    return [line.split() for line in said.decode().splitlines()]


def check_against(folder, said, before):
    """Compare the ledger with the truth; return what is spent now."""
    states, ledger = {}, open_ledger(folder)
    for row in ledger.rows():
        states.setdefault(int.from_bytes(row.round_id, "big"), []).append(row.state)
    for act, number in said:
        now = states.get(int(number), ["nothing"])[-1]
        assert (
            now
            in {
                "asked": {"nothing", "reserved", "committed", "released"},
                "reserved": {"reserved", "committed", "released"},
                "sent": {"reserved", "committed"},
                "committed": {"committed"},
                "released": {"reserved", "released"},
            }[act]
        ), (act, number, now)
    spent = ledger.spent().record
    sent = sum(act == "sent" for act, _ in said) * SMALL.steps
    assert spent >= before + sent
    return spent


def kill_many(folder, kills, seed):
    dice, spent, acts = random.Random(seed), 0.0, set()
    for kill in range(kills):
        said = killed_after(dice.randrange(14), dice.uniform(0.0, 0.01), folder, 1 + kill * ENOUGH)
        spent = check_against(folder, said, spent)
        acts.add(said[-1][0] if said else "nothing")
    assert acts >= {"asked", "sent"}, f"kills fell in {acts} only"


def count_in_steps(monkeypatch):
    monkeypatch.setattr(ledger_module, "record_epsilon", lambda events, delta: float(sum(event.steps for event in events)))
    monkeypatch.setattr(Ledger, "_check_budget", lambda *_: None)


@pytest.fixture(autouse=True)
def counted_in_steps(monkeypatch):
    count_in_steps(monkeypatch)


def test_fifty_kills(tmp_path):
    """In a process of its own: to fork one that holds every test's libraries takes longer than what is tested."""
    command = [sys.executable, "-m", "tests.integration.test_ledger_crash", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "2 ledgers survived 25 kills each\n"), done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(8))
def test_two_hundred_kills_at_twenty_five_points(tmp_path, seed):
    kill_many(tmp_path, 25, seed=100 + seed)


def killed_while_sending(folder):
    ledger = open_ledger(folder)
    before = ledger.spent().record
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        open_ledger(folder).reserve(charge(1))
        os.write(writing, b"sent")
        signal.pause()
    os.read(reading, 4)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return open_ledger(folder).spent().record - before


def test_a_round_killed_while_sending_is_spent(tmp_path):
    assert killed_while_sending(tmp_path) == SMALL.steps


def test_control_if_only_commits_counted_a_crash_would_be_free(tmp_path, monkeypatch):
    counted = ledger_module._spent

    def committed_only(rows, *, now_s):
        return counted([row for row in rows if row.state != "reserved"], now_s=now_s)

    monkeypatch.setattr(ledger_module, "_spent", committed_only)
    assert killed_while_sending(tmp_path) == 0


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patched:
        count_in_steps(patched)
        for seed in (1, 2):  # two, because every act reads the whole ledger
            folder = Path(sys.argv[1]) / str(seed)
            folder.mkdir()
            kill_many(folder, 25, seed)
    print("2 ledgers survived 25 kills each")
