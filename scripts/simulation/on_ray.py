"""The same participants and coordinator under Flower's own simulation engine, on Ray: for a few devices.

    pip install -e ".[simulation]"
    python scripts/simulate.py --data DIR --engine ray --devices 6 --rounds 2

Flower's engine makes one actor, which holds every participant for as long as the run lasts: a round's keys live in one process.
There are no node keys in a simulation, so the server takes a device's word for who it is when it comes forward; what it signs is
checked as ever.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from in_process import NOW_S, Authorities, Memory, one_verification
from simulation.federation import Setting, enrol, open_coordinator
from simulation.sound import load_sounds
from simulation.task import Task, make_task, split

from earmark_client.federation.flower import KEY, make_app
from earmark_shared.crypto.identities import Identity
from earmark_shared.errors import ProtocolError
from earmark_shared.head import Arrays
from earmark_shared.round import Abort, Advertise
from earmark_shared.wire.envelope import ACTIONS, ANSWERS, pack, unpack

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid

    from earmark_client.federation.participant import Participant
    from earmark_server.coordinator import Coordinator
    from earmark_server.round_run import RoundRun
    from earmark_shared.shapes import Message as RoundMessage

POLL_S, PHASE_S = 0.2, 300.0


@dataclass(frozen=True)
class Where:
    """All that the actor needs to make the same participants: it shares no memory with the server."""

    data: Path
    cache: Path
    devices: int
    how: str
    setting: Setting
    rounds: Path
    """The coordinator's folder, where devices find the newest head."""
    keys: tuple[bytes, bytes]
    """Private keys of the authorities of this run."""

    def authorities(self) -> Authorities:
        """Return who signs."""
        return Authorities(*map(Identity, self.keys))

    def task(self) -> Task:
        """Return what is learned."""
        return make_task(load_sounds(self.data, self.cache), self.setting.recipe.rank)


@lru_cache(maxsize=1)
def participants(where: Where) -> list[Participant]:
    """Make the run's participants once in a process."""
    task = where.task()
    clips, _ = split(task, where.devices, where.how, np.random.default_rng(where.setting.seed))
    ledgers = [Memory() for _ in clips]
    return list(enrol(task, clips, where.setting, where.authorities(), where.rounds, ledgers).values())


def client_app(where: Where) -> ClientApp:
    """Return the app of every simulated node: it hands each message to the product's app of the node's participant."""
    from flwr.clientapp import ClientApp

    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        device = participants(where)[int(context.node_config["partition-id"])]
        return make_app(device, clock=lambda: NOW_S)(message, context)

    for action in ACTIONS.values():
        app.train(action)(handle)
    return app


def federate_on_ray(where_data: Path, cache: Path, devices: int, how: str, setting: Setting) -> tuple[Task, Arrays, list[str]]:
    """Run a federation under Flower's engine; return the task, the head it ends with, and what became of each round."""
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    new = Authorities()
    keys = bytes(new.enrolment_key.private_bytes()), bytes(new.plan_key.private_bytes())
    with tempfile.TemporaryDirectory() as folder:
        where = Where(where_data.resolve(), cache.resolve(), devices, how, setting, Path(folder) / "rounds", keys)
        task = where.task()
        coordinator = open_coordinator(task, devices, setting, where.authorities(), where.rounds)
        server = ServerApp()

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            _ = context
            with one_verification():
                for _round in range(setting.rounds):
                    _run_round(grid, coordinator, devices)

        backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 1, "include_dashboard": False}}
        run_simulation(server, client_app(where), num_supernodes=devices, backend_config=backend)  # type: ignore[arg-type]
        return task, dict(coordinator.model.arrays), [record.outcome for record in coordinator.state.rounds]


def _run_round(grid: Grid, coordinator: Coordinator, devices: int) -> None:
    while len(nodes := list(grid.get_node_ids())) < devices:
        time.sleep(POLL_S)
    run = coordinator.begin(NOW_S)
    run.expect(devices)
    places: dict[bytes, int] = {}
    outgoing: list[tuple[int, RoundMessage]] = [(node, run.plan) for node in nodes]
    while not run.is_over:
        for node, kind, body in _exchange(grid, outgoing):
            _take(run, node, kind, body, places)
        asked = run.poll(NOW_S) or ({} if run.is_over else run.poll(run.deadline_s))
        outgoing = [(places[device_id], message) for device_id, message in asked.items()]
    coordinator.finish(run)


def _exchange(grid: Grid, outgoing: list[tuple[int, RoundMessage]]) -> list[tuple[int, type[RoundMessage], bytes]]:
    """Send each node its message and return what came back, in as many seconds as a phase has."""
    from flwr.app import ConfigRecord, Message, RecordDict

    asked = {}
    for node, message in outgoing:
        content = RecordDict({KEY: ConfigRecord({KEY: pack((message,))})})
        sent = Message(content, node, f"train.{ACTIONS[type(message)]}")
        asked[next(iter(grid.push_messages([sent])))] = node, type(message)
    answers, until_s = [], time.monotonic() + PHASE_S
    while asked and time.monotonic() < until_s:
        time.sleep(POLL_S)
        for reply in grid.pull_messages(list(asked)):
            node, kind = asked.pop(reply.metadata.reply_to_message_id)
            if not reply.has_error():
                answers.append((node, kind, bytes(reply.content.config_records[KEY][KEY])))  # type: ignore[arg-type]
    return answers


def _take(run: RoundRun, node: int, kind: type[RoundMessage], body: bytes, places: dict[bytes, int]) -> None:
    names = {place: device_id for device_id, place in places.items()}
    for answer in unpack(body, (ANSWERS[kind], Abort)):
        if isinstance(answer, Advertise):
            places[answer.device_id] = node
            names[node] = answer.device_id
        try:
            if isinstance(answer, Abort) and run.is_gathering:
                run.decline()
            else:
                run.receive(names[node], answer, NOW_S)
        except ProtocolError as error:
            run.refused.append(error)
