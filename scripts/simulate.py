"""A federation of many devices in one process, on the product's own state machines; every message is carried as bytes.

    python scripts/simulate.py --data FOLDER --devices 50 --rounds 10 --epsilon 8
    python scripts/simulate.py --devices 1000 --rounds 10              without --data: synthetic encoder outputs

FOLDER holds sounds in folders by label, or a CSV with the columns file, label and perhaps uploader or speaker. A fifth of the recordings
is held out for the figures. The last line is one JSON object: {accuracy, accuracy_base, accuracy_central, accuracy_no_dp, seconds, rounds,
devices}: of the federated head, the shipped model alone, one trainer with all data and no privacy, the same federation without noise.

Nothing of the protocol is written here a second time: participants, coordinator, secure aggregation and training are imported. What
differs from a deployment: ledgers only remember (all devices spend the same, it is accounted once), and a signature that was right
is not checked again by the next device in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.in_process import Authorities, Network, one_verification
from scripts.simulated_data import Sounds, base_held_head, encode_folder, hold_out, join_sets, split_sounds, synthetic

from earmark_client.federation.training_data import CorrectionTrainer, HeldHead
from earmark_client.learn.finetune import TrainingPlan, TrainingSet
from earmark_server.checkpoint import Checkpoint
from earmark_server.checkpoint import Model as Head
from earmark_server.coordinator import Coordinator, Judge, Profile, no_gate, publish_nowhere
from earmark_shared.errors import NormError
from earmark_shared.head import correct, flatten, unflatten, unit_rows
from earmark_shared.privacy.accountant import SampledGaussian, record_epsilon
from earmark_shared.privacy.mechanism import public_bucket
from earmark_shared.round import Floors, Phase

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from earmark_shared.head import Arrays, Floats

NO_NOISE = 1e-6
"""A noise multiplier that protects nothing, for the figure without DP; the accountant is not asked about it."""


@dataclass(frozen=True)
class Knobs:
    """What a run looks like."""

    devices: int
    rounds: int
    epsilon: float
    dropout: float
    lies: float
    noise: float
    shard: int
    steps: int
    rate: float
    sharpness: float
    clip_c: float
    seed: int


class Run:
    """One federation: its devices with their data, and rounds."""

    def __init__(self, knobs: Knobs, head: HeldHead, parts: Sequence[TrainingSet], noise_multiplier: float) -> None:
        """Enrol the devices."""
        self.knobs, self.head = knobs, head
        self.authorities, self.rng = Authorities(), np.random.default_rng(knobs.seed)
        self.plans = [training_plan(knobs, len(part.targets), noise_multiplier) for part in parts]
        shards = max(1, -(-len(parts) // knobs.shard))
        is_lab = len(parts) < 32
        profile = Profile(
            clip_c=knobs.clip_c,
            log2_scale_c=16,
            z=knobs.noise,
            n_min=5 if is_lab else 20,
            n_max=128,
            shards=shards,
            is_lab=is_lab,
        )
        self.floors = Floors(n_min=profile.n_min, lab=is_lab)
        folder = Path(tempfile.mkdtemp(prefix="earmark-simulate-"))
        first = Head(0, head.schema, head.arrays)
        self.coordinator = Coordinator(
            Checkpoint(folder), first, profile, self.authorities.office(), Judge(no_gate, publish_nowhere)
        )
        liars = set(self.rng.permutation(len(parts))[: int(knobs.lies * len(parts))].tolist())
        self.devices = dict(
            self._enrol(part, plan, is_liar=place in liars)
            for place, (part, plan) in enumerate(zip(parts, self.plans, strict=True))
        )

    def go(self, tell: Callable[[str], None]) -> Arrays:
        """Run every round and return the head."""
        for number in range(self.knobs.rounds):
            began = time.perf_counter()
            gone = {alias for alias in self.devices if self.rng.random() < self.knobs.dropout}
            leave = {alias: Phase(int(self.rng.integers(1, 6))) for alias in gone}
            network = Network(self.devices, is_silent=lambda alias, phase, leave=leave: phase >= leave.get(alias, Phase.DONE))
            network.run(self.coordinator)
            record = self.coordinator.state.rounds[-1]
            seconds = time.perf_counter() - began
            tell(
                f"round {number + 1}: {record.outcome}, {record.devices} of {len(self.devices)} devices, {seconds:.1f} s {record.reason}"
            )
        return self.coordinator.model.arrays

    def _enrol(self, part: TrainingSet, plan: TrainingPlan, *, is_liar: bool) -> tuple[bytes, object]:
        def trainer(_plan: object) -> CorrectionTrainer:
            model = self.coordinator.model
            held = replace(self.head, version=model.version, arrays=model.arrays)
            return (Liar if is_liar else CorrectionTrainer)(held, part, plan, os.urandom)

        return self.authorities.device(self.floors, lambda: self.coordinator.model, trainer)


class Liar(CorrectionTrainer):
    """Sends the opposite of what it learned, as long as it may be."""

    def update(self, paid: SampledGaussian) -> Floats:
        """See `participant.Trainer`."""
        learned = super().update(paid)
        length = float(np.linalg.norm(learned))
        if not length:
            raise NormError("there is nothing to turn around")
        return np.asarray(-learned * (1e3 / length), dtype=np.float32)


def training_plan(knobs: Knobs, clips: int, noise_multiplier: float) -> TrainingPlan:
    """Return how a device with so many clips trains."""
    bucket = public_bucket(clips, is_lab=True)
    return TrainingPlan(
        clipping_bound=1.0,
        noise_multiplier=noise_multiplier,
        expected_clips=max(1, bucket // 2),
        steps=knobs.steps,
        learning_rate=knobs.rate,
        sharpness=knobs.sharpness,
        is_lab=True,
    )


def noise_for(knobs: Knobs) -> float:
    """Return the noise multiplier at which all rounds together cost at most `--epsilon`; without one, hardly any."""
    if knobs.epsilon <= 0:
        return NO_NOISE
    low, high = 0.3, 64.0
    for _ in range(16):
        middle = (low * high) ** 0.5
        event = SampledGaussian(middle, 0.5, knobs.steps * knobs.rounds)
        low, high = (middle, high) if record_epsilon([event]) > knobs.epsilon else (low, middle)
    return high


def accuracy(head: HeldHead, arrays: Arrays | None, held: Sounds, among: NDArray[np.int64]) -> float:
    """Return the share of held-out recordings whose best label, of those in the data, is the right one."""
    text = unit_rows(held.text) if arrays is None else correct(arrays, held.encoder, held.text)
    scores = text @ head.label_vectors[among].T
    summed = np.zeros((held.count, len(among)), dtype=np.float64)
    np.add.at(summed, held.clips, scores)
    return float(np.mean(among[np.argmax(summed, axis=1)] == held.labels))


def central(knobs: Knobs, head: HeldHead, parts: Sequence[TrainingSet]) -> Arrays:
    """Return the head that one trainer with everybody's data, and no privacy, comes to in as many steps."""
    whole = join_sets(parts)
    plan = replace(training_plan(knobs, len(whole.targets), NO_NOISE), steps=knobs.steps * knobs.rounds)
    trainer = CorrectionTrainer(head, whole, plan, os.urandom)
    moved = flatten(head.schema, head.arrays) + trainer.update(trainer.event())
    return unflatten(head.schema, np.asarray(moved, dtype=np.float32), head.arrays)


def read_knobs() -> tuple[argparse.Namespace, Knobs]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of sounds; without it, synthetic encoder outputs")
    parser.add_argument("--split", choices=("uploader", "speaker", "dirichlet"), default="dirichlet")
    parser.add_argument("--clips", type=int, default=64, help="of each device; drawn again where there are too few")
    parser.add_argument("--only", action="store_true", help="only the federated figure: the others are null")
    for name, kind, default in (
        ("devices", int, 50), ("rounds", int, 10), ("epsilon", float, 8.0), ("dropout", float, 0.0), ("lies", float, 0.0),
        ("noise", float, 0.0), ("shard", int, 64), ("steps", int, 5), ("rate", float, 0.5), ("sharpness", float, 20.0),
        ("clip-c", float, 10.0), ("seed", int, 0),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, default=default)
    chosen = parser.parse_args()
    return chosen, Knobs(**{name: getattr(chosen, name) for name in Knobs.__dataclass_fields__})


def main() -> int:
    """Run the simulation; the last line is its figures."""
    warnings.filterwarnings("ignore")
    chosen, knobs = read_knobs()
    began = time.perf_counter()
    head, sounds = load(chosen.data)
    kept, held = hold_out(sounds, seed=knobs.seed)
    parts = split_sounds(kept, head, devices=knobs.devices, clips=chosen.clips, how=chosen.split, seed=knobs.seed)
    among = np.unique(sounds.labels)
    figures: dict[str, float | int | None] = {"accuracy_base": accuracy(head, None, held, among)}
    with one_verification():
        federated = Run(knobs, head, parts, noise_for(knobs)).go(say)
        figures["seconds"] = round(time.perf_counter() - began, 1)
        figures["accuracy"] = accuracy(head, federated, held, among)
        figures["accuracy_no_dp"] = figures["accuracy_central"] = None
        if not chosen.only:
            without = Run(replace(knobs, noise=0.0, epsilon=0.0), head, parts, NO_NOISE).go(say)
            figures["accuracy_no_dp"] = accuracy(head, without, held, among)
            figures["accuracy_central"] = accuracy(head, central(knobs, head, parts), held, among)
    names = ("accuracy", "accuracy_base", "accuracy_central", "accuracy_no_dp")
    rounded = {name: None if figures[name] is None else round(float(figures[name] or 0.0), 4) for name in names}
    print(json.dumps(rounded | {"seconds": figures["seconds"], "rounds": knobs.rounds, "devices": knobs.devices}))
    return 0


def load(folder: Path | None) -> tuple[HeldHead, Sounds]:
    """Return the head that rounds begin with, and the sounds as it hears them."""
    if folder is None:
        return synthetic()
    head, model = base_held_head()
    return head, encode_folder(folder, head, model)


def say(text: str) -> None:
    """Tell the person who waits; the result alone goes to stdout."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
