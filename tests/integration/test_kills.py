"""`kill -9` of devices and of the server in every phase of rounds on real Flower: rounds go on, what was spent stays spent."""

import random
import time

import pytest

from earmark_shared.round import LAB_COHORT_LEAST
from tests.support.live import PHASES, Live, descendants, eventually, kill, kill_tree

TIMES = 5
PHASE_S = 240.0
A_ROUND_KILLS = 3
SPARE = 1
"""One more than a cohort outlives the kills: on a busy machine one may come too late for a phase."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def await_phase(live, number, phase, node=None):
    """Wait until round `number` is in a phase, and a node (or anybody) was asked; return how messages name the round."""
    group = eventually(lambda: live.open_group(number), PHASE_S, f"round {number}")
    eventually(lambda: node in live.asked(group, phase) if node else live.asked(group, phase), PHASE_S, phase)
    return group


def check_books(live):
    """Nothing that was spent is given back, and whatever left a device is in its ledger."""
    for device in live.devices:
        spent = device.look()
        assert spent >= device.spent
        device.spent = spent
        left = {group for group, phase, node, _ in live.seen if (phase, node) == ("sa1_confirm", device.node_id)}
        assert left <= device.charged()


def check_floor(live):
    """Shares are asked of a cohort or of nobody, and every sum that was opened is a cohort's.

    A server that was killed while it asked may have asked fewer; it opened nothing.
    """
    lost = {record.round_id[:8] for record in live.records() if record.outcome == "lost"}
    for group in {group for group, *_ in live.look()} - lost:
        assert len(live.asked(group, "sa1_unmask")) in {0, *range(LAB_COHORT_LEAST, len(live.devices) + 1)}
    for record in live.records():
        assert record.devices >= LAB_COHORT_LEAST * len(record.transcripts)
        assert bool(record.transcripts) == (record.outcome == "published")


def restart(live, devices):
    for device in devices:
        live.participate(device)
    live.await_nodes(devices)


def test_devices_killed_in_every_phase_stop_no_round(tmp_path):
    chance, kills = random.Random(6), [phase for _ in range(TIMES) for phase in PHASES]
    with Live(tmp_path, LAB_COHORT_LEAST + SPARE + A_ROUND_KILLS) as live:
        live.settle_deadlines()
        while kills:
            now, kills = sorted(kills[:A_ROUND_KILLS], key=PHASES.index), kills[A_ROUND_KILLS:]
            victims, number = chance.sample(live.devices, len(now)), len(live.records()) + 1
            live.begin_rounds()
            for phase, device in zip(now, victims, strict=True):
                await_phase(live, number, phase, device.node_id)
                chance_wait(chance)
                kill_tree(device.process)
                device.look()
            live.await_round()
            assert live.records()[-1].outcome == "published"
            check_books(live)
            restart(live, victims)
        check_floor(live)
        below_the_floor_nothing_is_opened(live)


def below_the_floor_nothing_is_opened(live):
    """One more is killed than may be missing: the round comes to nothing, on both sides; the next one is whole again."""
    number, victims = len(live.records()) + 1, live.devices[: SPARE + A_ROUND_KILLS + 1]
    live.begin_rounds()
    group = await_phase(live, number, "sa1_mask", victims[0].node_id)
    kill(*(pid for device in victims for pid in (device.process.pid, *descendants(device.process.pid))))
    live.await_round()
    assert live.records()[-1].outcome == "aborted"
    assert not live.records()[-1].transcripts
    assert not live.asked(group, "sa1_unmask")
    restart(live, victims)
    live.begin_rounds()
    live.await_round()
    assert live.records()[-1].devices >= len(live.devices) - SPARE
    check_books(live)
    check_floor(live)


def test_a_server_killed_in_every_phase_goes_on_from_its_checkpoint(tmp_path):
    chance, lost = random.Random(6), dict.fromkeys(PHASES, 0)
    with Live(tmp_path, LAB_COHORT_LEAST + 1) as live:
        for turn in range(TIMES):
            live.begin_rounds()
            for place, phase in enumerate(PHASES):
                number = len(live.records()) + 1
                await_phase(live, number, phase)
                chance_wait(chance)
                everything = turn == place
                kill_server(live, everything=everything)
                lost[phase] += live.records()[number - 1].outcome == "open"
            live.await_round()
            assert live.records()[-1].outcome == "published"
            assert [record.outcome for record in live.records()[-len(PHASES) - 1 : -1]] == ["lost"] * len(PHASES)
            check_books(live)
        assert set(lost.values()) == {TIMES}
        check_floor(live)
        versions = [record.model_version for record in live.records() if record.outcome == "published"]
        assert versions == list(range(TIMES))


def kill_server(live, *, everything):
    """Kill the process that coordinates; or, as a power cut would, the SuperLink and the service that keeps it running as well."""
    if everything:
        kill_tree(live.serving)
        kill_tree(live.rounds)
        live.serve()
        live.begin_rounds()
    else:
        kill(live.coordinator())


def chance_wait(chance):
    """Let some of the phase pass."""
    time.sleep(chance.uniform(0.0, 0.8))
