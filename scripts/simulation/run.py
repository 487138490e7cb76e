"""Simulate a federation on real sound: the product's own coordinator and participants on one machine.

    python scripts/simulate.py --data DIR --devices 50 --rounds 10 --epsilon 8
    python scripts/simulate.py --data DIR --table --write docs/simulation

Devices hold 64 clips each. The last line is a JSON object: accuracy of the federated head on held-out clips of the labels that the base
model does poorly, beside the base model's, a central training's, the same federation's without noise (`no_dp`), and one's without noise
and clipping that has a step size of its own (`unclipped`).
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "benchmarks")]

import numpy as np
from common import Parser, at_least, finish, folder_with, run, share
from simulation.federation import Outcome, Recipe, Setting, federate, noise_for, train_centrally, unclipped, without_noise
from simulation.sound import STRANGER, load_sounds
from simulation.table import DEVICES, make_table
from simulation.task import Task, accuracy, make_task, poor_labels, split

from earmark_client import blas
from earmark_shared.head import Arrays

SPLITS = ("uploader", "speaker", "dirichlet")
CACHE = Path(".cache/simulation.npz")
HEADS = ("", "_base", "_central", "_no_dp", "_unclipped")
"""Endings of the keys: the federation's own head, and what it is compared with."""


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser((__doc__ or "").split("\n", maxsplit=1)[0])
    holds = ("esc10/esc10.csv", "fsdd/recordings")
    parser.add_argument(
        "--data", type=folder_with(*holds), required=True, help="folder with esc10/, fsdd/ and, where there, corpus/"
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"where the encoder's outputs are kept; {CACHE}")
    parser.add_argument("--devices", type=at_least(1), default=50)
    parser.add_argument("--rounds", type=at_least(1), default=10)
    parser.add_argument("--epsilon", type=epsilon, default=8.0, help="per clip, for all rounds, at delta 1e-5; or none")
    parser.add_argument("--split", choices=SPLITS, default="speaker", help="how clips fall to devices")
    parser.add_argument("--dropout", type=share, default=0.0, help="share of devices that fall silent in a round")
    parser.add_argument("--lies", type=at_least(0.0, 1.0), default=0.0, help="share of devices whose labels are wrong")
    parser.add_argument("--noise", type=float, default=0.0, choices=(0.0, 1.0, 4.0), help="device-level noise of the sums (z)")
    parser.add_argument("--step", type=above_zero, default=Recipe.learning_rate, help="step size of a device")
    parser.add_argument("--sharpness", type=above_zero, default=Recipe.sharpness, help="factor on cosines before the softmax")
    parser.add_argument("--development", action="store_true", help="hold out other clips: for choosing, never for reporting")
    parser.add_argument("--workers", type=at_least(1), default=os.cpu_count() or 1, help="processes that devices live in")
    parser.add_argument("--rank", type=at_least(1), default=Recipe.rank, help="directions that the head hears in")
    parser.add_argument("--seed", type=at_least(0), default=0, help="splits and drop-outs; privacy's randomness has none")
    parser.add_argument("--alone", action="store_true", help="only this federation: nothing to compare with, those keys are null")
    parser.add_argument("--engine", choices=("earmark", "ray"), default="earmark", help="ray: Flower's, for a few devices")
    parser.add_argument("--table", action="store_true", help="epsilon {none, 8, 4, 2, 1} by devices {20, 30, 50, 200}")
    parser.add_argument("--table-devices", type=at_least(1), nargs="+", default=list(DEVICES), help="the table's columns")
    parser.add_argument("--runs", type=at_least(1), default=1, help="runs of which each cell of the table is the mean")
    parser.add_argument("--write", type=Path, help="with --table: a folder for table.md and the plots")
    return parser.parse_args(given)


def above_zero(text: str) -> float:
    """Read a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: give a number above 0")
    return value


def epsilon(text: str) -> float | None:
    """Read a number above 0, or "none"."""
    if text == "none":
        return None
    try:
        return above_zero(text)
    except argparse.ArgumentTypeError as refusal:
        raise argparse.ArgumentTypeError(f"{refusal}, or none") from None


def setting_of(asked: argparse.Namespace) -> Setting:
    """Return what the command line asks for."""
    recipe = Recipe(rank=asked.rank, learning_rate=asked.step, sharpness=asked.sharpness)
    return Setting(asked.rounds, asked.epsilon, asked.dropout, asked.lies, asked.noise, asked.seed, recipe, asked.workers)


def main(given: list[str] | None = None) -> int:
    """Simulate, and print what came of it; return the exit code."""
    asked = arguments(given)
    blas.use_one_thread()
    if asked.engine == "ray":
        finish(simulate_on_ray(asked))
        return 0
    task = make_task(load_sounds(asked.data, asked.cache, is_development=asked.development), asked.rank)
    if asked.table:
        devices, setting = tuple(asked.table_devices), setting_of(asked)
        print(make_table(task, setting, asked.split, devices=devices, runs=asked.runs, write=asked.write))
        return 0
    finish(simulate(task, setting_of(asked), asked.devices, asked.split, is_alone=asked.alone))
    return 0


def simulate(task: Task, setting: Setting, devices: int, how: str, *, is_alone: bool = False) -> dict[str, object]:
    """Run one federation and what it is compared with; return the last line's object."""
    clips, is_again = split(task, devices, how, np.random.default_rng(setting.seed))
    outcome = federate(task, clips, setting)
    heads: dict[str, Arrays | None] = {"": outcome.arrays, "_base": None}
    if not is_alone:
        heads["_central"] = train_centrally(task, clips, setting)
        heads["_no_dp"] = federate(task, clips, without_noise(setting)).arrays
        heads["_unclipped"] = federate(task, clips, unclipped(setting)).arrays
    print(describe(task, setting, outcome, is_again=is_again), file=sys.stderr)
    return {
        **judged(task, heads),
        "seconds": round(outcome.seconds, 1),
        "cpu_seconds": round(outcome.cpu_s, 1),
        "rounds": setting.rounds,
        "devices": devices,
        "epsilon": None if setting.epsilon is None else round(outcome.epsilon, 3),
    }


def simulate_on_ray(asked: argparse.Namespace) -> dict[str, object]:
    """Run one federation under Flower's engine, with nothing to compare it with but the base model."""
    from simulation.on_ray import federate_on_ray

    begun_s = time.monotonic()
    task, arrays, outcomes = federate_on_ray(asked.data, asked.cache, asked.devices, asked.split, setting_of(asked))
    seconds = round(time.monotonic() - begun_s, 1)
    told = {"seconds": seconds, "rounds": asked.rounds, "devices": asked.devices, "published": outcomes.count("published")}
    return {**judged(task, {"": arrays, "_base": None}), **told}


def judged(task: Task, heads: dict[str, Arrays | None]) -> dict[str, float | None]:
    """Return each head's accuracy on labels done poorly, on all, and on the speaker that no device has heard; tell people more."""
    poor, every = poor_labels(task), list(task.schema.labels)
    recalls = {name: task.recalls(arrays) for name, arrays in heads.items()}
    strangers = {name: task.recalls(arrays, STRANGER) for name, arrays in heads.items()} if STRANGER in task.sounds.part else {}
    for label in every:
        told = (f"{name.strip('_') or 'federated'} {each[label][0]}/{each[label][1]}" for name, each in recalls.items())
        print(f"  {label}{' (poor)' if label in poor else ''}: {', '.join(told)}", file=sys.stderr)
    return {
        **{f"accuracy{name}": round(accuracy(recalls[name], poor), 4) if name in recalls else None for name in HEADS},
        **{f"all_labels{name}": round(accuracy(each, every), 4) for name, each in recalls.items()},
        **{f"new_speaker{name}": round(accuracy(each, every), 4) for name, each in strangers.items()},
    }


def describe(task: Task, setting: Setting, outcome: Outcome, *, is_again: bool) -> str:
    """Return what was run, for people."""
    noise = noise_for(setting.epsilon, setting.recipe, setting.rounds)
    drawn = "clips drawn again across devices" if is_again else "distinct clips"
    published = sum(each == "published" for each in outcome.outcomes)
    return (
        f"{len(task.schema.labels)} labels, {task.schema.size} parameters, {drawn}, noise multiplier {noise:.3g}; "
        f"{published} of {setting.rounds} rounds published, {outcome.shards} shards of at most {outcome.largest_shard}"
    )


if __name__ == "__main__":
    run(main)
