"""Devices in worker processes, so that a simulation uses every core: the same participants, and a network whose bytes cross a pipe.

    with Crew(devices, ledgers, workers=2) as crew:
        network = CrewNetwork(devices, crew=crew)       # an `in_process.Network` like any other

Each worker is a fork that owns every so many-th device from then on: their keys, updates and ledgers live there alone.
"""

from __future__ import annotations

import multiprocessing
import os
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Self

from in_process import Letter, Memory, Network, answer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from multiprocessing.process import BaseProcess

    from earmark_client.federation.participant import Participant
    from earmark_client.learn.ledger_rows import Charge

PATIENCE_S = 600
"""How long the network waits for the next answer of any worker."""
END, BOOKS = "end", "books"
"""What else a worker is told than letters: to go, and to say what its devices spent."""
TOGETHER = 8
"""Answers that a worker sends at once."""


class Crew:
    """Worker processes and the devices they hold."""

    def __init__(self, devices: dict[bytes, Participant], ledgers: list[Memory], workers: int) -> None:
        """Fork; the devices here are not to be used again."""
        import_module("earmark_client.learn.correction")  # torch, once for all workers
        context = multiprocessing.get_context("fork")
        names = list(devices)
        self.owner = {name: place % workers for place, name in enumerate(names)}
        self.pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for worker in range(workers):
            here, there = context.Pipe()
            own = {name: devices[name] for name in names[worker::workers]}
            process = context.Process(target=_work, args=(there, own, ledgers[worker::workers], [*self.pipes, here]), daemon=True)
            process.start()
            there.close()
            self.pipes.append(here)
            self._processes.append(process)

    def __enter__(self) -> Self:
        """Return the crew."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers."""
        for pipe, process in zip(self.pipes, self._processes, strict=True):
            with suppress(OSError):
                pipe.send(END)
            pipe.close()
            process.join(timeout=10)
            if process.is_alive():
                process.kill()

    def committed(self) -> tuple[list[list[Charge]], float]:
        """Return what every device's ledger was charged, and the workers' processor seconds."""
        charges: list[list[Charge]] = []
        seconds = 0.0
        for pipe in self.pipes:
            pipe.send(BOOKS)
            own, cpu_s = _receive(pipe)
            charges += own
            seconds += cpu_s
        return charges, seconds


@dataclass
class CrewNetwork(Network):
    """Carries bytes to the workers and back; the server works on answers while the workers make the next."""

    crew: Crew = field(kw_only=True)

    def ask(self, letters: Iterable[Letter]) -> Iterator[Letter]:
        """Give each device its message; yield what each sent back, as it comes."""
        crew = self.crew
        batches: list[list[Letter]] = [[] for _ in crew.pipes]
        for letter in letters:
            batches[crew.owner[letter[0]]].append(letter)
        for pipe, batch in zip(crew.pipes, batches, strict=True):
            pipe.send((self.now_s, batch))
        busy = list(crew.pipes)
        while busy:
            ready = wait(busy, timeout=PATIENCE_S)
            if not ready:
                raise TimeoutError("a worker process does not answer")
            for pipe in ready:
                answered = _receive(pipe)  # type: ignore[arg-type]  # what went in were connections
                if not answered:
                    busy.remove(pipe)  # type: ignore[arg-type]  # as above
                yield from answered


def _receive(pipe: Connection) -> Any:  # noqa: ANN401  what a worker sent
    if not pipe.poll(PATIENCE_S):
        raise TimeoutError("a worker process does not answer")
    return pipe.recv()


def _work(pipe: Connection, devices: dict[bytes, Participant], ledgers: list[Memory], inherited: list[Connection]) -> None:
    """Answer batches of letters until told to go, or until the server's process is gone; an empty list ends each batch's answers."""
    for other in inherited:
        other.close()
    while True:
        try:
            asked = pipe.recv()
        except EOFError:
            return
        if asked == END:
            return
        if asked == BOOKS:
            used = os.times()
            pipe.send(([ledger.committed for ledger in ledgers], used.user + used.system))
            continue
        now_s, letters = asked
        answers: list[Letter] = []
        for device_id, kind, packed in letters:
            answers.append((device_id, kind, answer(devices[device_id], kind, packed, now_s)))
            if len(answers) == TOGETHER:
                pipe.send(answers)
                answers = []
        if answers:
            pipe.send(answers)
        pipe.send([])
