"""A simulated federation: the product's coordinator and participants on real sound, and what it came to.

Nothing of the protocol, of training or of accounting is written again here; devices differ from real ones in that their ledger lies in
memory and their clips come from a list. They live in worker processes, one a core.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from in_process import Authorities, Memory, Network, one_verification
from simulation.crew import Crew, CrewNetwork
from simulation.task import CLIPS, Integers, Task

from earmark_client.federation.training_data import CorrectionTrainer, HeldHead
from earmark_client.learn.finetune import TrainingPlan, TrainingSet, planned_event, train
from earmark_server.checkpoint import STATE, Checkpoint, Model
from earmark_server.coordinator import Coordinator, Judge, Profile, no_gate, publish_nowhere
from earmark_shared.head import Floats, flatten, unflatten
from earmark_shared.privacy.accountant import SampledGaussian, record_epsilon
from earmark_shared.round import COHORT_LEAST, LAB_COHORT_LEAST, SHARD_LEAST, Floors, Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from earmark_client.federation.participant import Participant
    from earmark_client.learn.ledger_rows import Charge

    Books = tuple[list[list[Charge]], float]
    """What each device was charged, and the processor seconds of other processes."""

NO_NOISE = 1e-5
"""Noise multiplier without privacy: the mechanism runs all the same, and moves nothing."""
UNCLIPPED = 1e3
SHARD_MOST = 64
CENTRAL_STEPS, CENTRAL_STEP, CENTRAL_SHARPNESS = 400, 0.3, 40.0
"""How all clips train in one place: plain stochastic gradient descent until it learns no more."""


@dataclass(frozen=True)
class Recipe:
    """What was tuned, on the development split alone (docs/simulation.md)."""

    rank: int = 64
    clipping_bound: float = 1.0
    expected_clips: int = CLIPS
    """Every clip in every step: what a clip adds to the sum grows as fast as the noise that more steps ask for."""
    steps: int = 1
    learning_rate: float = 0.8
    sharpness: float = 20.0
    rate: float = 3.0
    """How far the head moves along the mean update; devices step so much less far that `longest` does not cut them."""
    longest: float = 10.0
    """`clip_c`: the longest update that a device may send."""


@dataclass(frozen=True)
class Setting:
    """One simulation."""

    rounds: int
    epsilon: float | None
    dropout: float = 0.0
    """Share of devices that fall silent in a round, each in some phase."""
    lies: float = 0.0
    """Share of devices whose every label is wrong."""
    z: float = 0.0
    """Device-level noise multiplier of the sums."""
    seed: int = 0
    recipe: Recipe = field(default_factory=Recipe)
    workers: int = 1
    """Processes that devices live in."""
    clips_gradients: bool | None = None
    """Whether gradients are clipped; None: only where there is privacy."""

    @property
    def is_clipped(self) -> bool:
        """Whether gradients are clipped."""
        return self.epsilon is not None if self.clips_gradients is None else self.clips_gradients


@dataclass(frozen=True)
class Outcome:
    """What a federation came to."""

    heads: tuple[dict[str, Floats], ...]
    """The head after each round."""
    epsilon: float
    """Spent by the device that spent most, by its own ledger; infinite without privacy."""
    seconds: float
    cpu_s: float
    """Of all processes, user and system."""
    outcomes: tuple[str, ...]
    shards: int
    largest_shard: int

    @property
    def arrays(self) -> dict[str, Floats]:
        """The head it ends with."""
        return self.heads[-1]


def noise_for(epsilon: float | None, recipe: Recipe, rounds: int) -> float:
    """Return the least noise multiplier (to 1 %) with which all rounds together spend at most `epsilon`."""
    if epsilon is None:
        return NO_NOISE
    low, high = 0.3, 64.0
    while high / low > 1.01:
        middle = float(np.sqrt(low * high))
        event = SampledGaussian(middle, recipe.expected_clips / CLIPS, recipe.steps * rounds)
        low, high = (low, middle) if record_epsilon([event]) <= epsilon else (middle, high)
    return high


def training_plan(setting: Setting) -> TrainingPlan:
    """Return what each round's local training looks like; without privacy nothing is clipped either."""
    recipe = setting.recipe
    return TrainingPlan(
        clipping_bound=recipe.clipping_bound if setting.is_clipped else UNCLIPPED,
        noise_multiplier=noise_for(setting.epsilon, recipe, setting.rounds),
        expected_clips=recipe.expected_clips,
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        sharpness=recipe.sharpness,
    )


def without_noise(setting: Setting) -> Setting:
    """Return the same federation without noise: gradients are clipped as before, so that steps are as long."""
    return replace(setting, epsilon=None, clips_gradients=True)


def unclipped(setting: Setting) -> Setting:
    """Return a federation without any of privacy's parts, with the steps that suit it, chosen like the recipe."""
    recipe = replace(setting.recipe, steps=4, learning_rate=0.2, sharpness=20.0)
    return replace(setting, epsilon=None, clips_gradients=False, recipe=recipe)


def federate(task: Task, clips: list[Integers], setting: Setting) -> Outcome:
    """Run a whole federation and return the head it ends with."""
    rng, authorities = random.Random(setting.seed), Authorities()
    ledgers = [Memory() for _ in clips]
    with tempfile.TemporaryDirectory() as folder:
        coordinator = open_coordinator(task, len(clips), setting, authorities, Path(folder) / "rounds")
        devices = enrol(task, clips, setting, authorities, Path(folder) / "rounds", ledgers)
        with one_verification():
            if setting.workers == 1:
                return _run(coordinator, Network(devices), setting, rng, lambda: ([each.committed for each in ledgers], 0.0))
            with Crew(devices, ledgers, setting.workers) as crew:
                return _run(coordinator, CrewNetwork(devices, crew=crew), setting, rng, crew.committed)


def floors_of(devices: int, setting: Setting) -> Floors:
    """Return what devices and server insist on; too few devices for a shard are a lab, which says so in the product."""
    least = COHORT_LEAST if devices >= COHORT_LEAST else LAB_COHORT_LEAST
    return Floors(n_min=least, lab=devices < SHARD_LEAST, z=setting.z)


def open_coordinator(task: Task, devices: int, setting: Setting, authorities: Authorities, folder: Path) -> Coordinator:
    """Return the product's coordinator, with `folder` as its checkpoint."""
    recipe = setting.recipe
    floors = floors_of(devices, setting)
    profile = Profile(
        clip_c=recipe.longest,
        log2_scale_c=16,
        rate=recipe.rate,
        z=setting.z,
        n_min=floors.n_min,
        n_max=SHARD_MOST,
        is_lab=floors.lab,
    )
    judge, first = Judge(no_gate, publish_nowhere), Model(0, task.schema, task.first)
    return Coordinator(Checkpoint(folder), first, profile, authorities.office(), judge)


def enrol(
    task: Task, clips: list[Integers], setting: Setting, authorities: Authorities, folder: Path, ledgers: list[Memory]
) -> dict[bytes, Participant]:
    """Return the product's participants by pseudonym; each trains on its clips, from the newest head in the coordinator's `folder`."""
    rng, plan, held = random.Random(setting.seed), training_plan(setting), _Newest(task, folder)
    floors = floors_of(len(clips), setting)
    devices = {}
    for own, ledger in zip(clips, ledgers, strict=True):
        data = _lied(task.training_set(own), rng) if rng.random() < setting.lies else task.training_set(own)
        alias, device = authorities.device(floors, held.model, lambda _plan, data=data: held.trainer(data, plan), ledger)
        devices[alias] = device
    return devices


def _run(coordinator: Coordinator, network: Network, setting: Setting, rng: random.Random, books: Callable[[], Books]) -> Outcome:
    runs, heads = [], []
    begun_s, cpu_s = time.monotonic(), time.process_time()
    for _ in range(setting.rounds):
        network.is_silent = _silences(network.devices, setting.dropout, rng)
        runs.append(network.run(coordinator))
        heads.append(dict(coordinator.model.arrays))
        network.now_s += 86_400
    sizes = [len(total.survivors) for run in runs for total in run.sums]
    seconds, (charged, worked_s) = time.monotonic() - begun_s, books()
    return Outcome(
        tuple(heads),
        _spent(charged, setting),
        seconds,
        time.process_time() - cpu_s + worked_s,
        tuple(record.outcome for record in coordinator.state.rounds),
        max((len(run.sums) for run in runs), default=0),
        max(sizes, default=0),
    )


class _Newest:
    """The coordinator's newest head as devices hold it, read from its disk once a version: each would have it on its own."""

    def __init__(self, task: Task, folder: Path) -> None:
        self._task, self._folder = task, folder
        self._model: Model | None = None
        self._written_ns = 0

    def model(self) -> Model:
        """Return the newest published head."""
        written_ns = (self._folder / STATE).stat().st_mtime_ns
        if self._model is None or written_ns != self._written_ns:
            checkpoint = Checkpoint(self._folder)
            state = checkpoint.load()
            if state is None:
                raise FileNotFoundError(self._folder)
            if self._model is None or self._model.version != state.version:
                self._model = checkpoint.model(state)
            self._written_ns = written_ns
        return self._model

    def trainer(self, data: TrainingSet, plan: TrainingPlan) -> CorrectionTrainer:
        """Return what trains on a device's clips, from the newest head."""
        model = self.model()
        head = HeldHead(model.version, model.schema, model.arrays, self._task.label_vectors)
        return CorrectionTrainer(head, data, plan, os.urandom)


def train_centrally(task: Task, clips: list[Integers], setting: Setting) -> dict[str, Floats]:
    """Train on all devices' clips in one place, without privacy: what a federation gives up by being one."""
    data = task.training_set(np.unique(np.concatenate(clips)))
    plan = replace(training_plan(replace(setting, epsilon=None)), expected_clips=64, steps=1)
    plan = replace(plan, learning_rate=CENTRAL_STEP, sharpness=CENTRAL_SHARPNESS, steps=CENTRAL_STEPS)
    trained = train(task.schema, task.first, data, plan, paid=planned_event(plan, data.clip_count), entropy=os.urandom)
    return unflatten(task.schema, flatten(task.schema, task.first) + trained.update, task.first)


def _silences(devices: dict[bytes, Participant], dropout: float, rng: random.Random) -> Callable[[bytes, Phase], bool]:
    """Choose who falls silent in the next round, and from which phase on."""
    phases = [Phase.ADVERTISE, Phase.SHARE_KEYS, Phase.MASKED, Phase.CONSISTENCY, Phase.UNMASK]
    gone = {device: rng.choice(phases) for device in devices if rng.random() < dropout}
    return lambda device, phase: device in gone and phase >= gone[device]


def _lied(data: TrainingSet, rng: random.Random) -> TrainingSet:
    """Move every answer to the next label but some: a device that lies alike about everything."""
    return replace(data, targets=np.roll(data.targets, rng.randrange(1, data.targets.shape[1]), axis=1))


def _spent(committed: list[list[Charge]], setting: Setting) -> float:
    if setting.epsilon is None:
        return float("inf")
    charged = max(([charge.record for charge in each if charge.record] for each in committed), key=len)
    return record_epsilon(charged)
