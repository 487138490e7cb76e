"""Simulate a federation on real sound: the product's own coordinator and participants, in one process.

    python scripts/simulate.py --data DIR --devices 30 --rounds 10 --epsilon 8 --cache FILE
    python scripts/simulate.py --data DIR --table --cache FILE --write docs/simulation-table.md

Devices hold 64 clips each. The last line is a JSON object: accuracy of the federated head on held-out clips of the labels that the base
model does poorly, beside the base model's, a central training's and the same federation's without privacy.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before numpy: a simulated device has one thread, and there are thousands
sys.path[:0] = [str(Path(__file__).resolve().parent)]

import numpy as np
from simulation.federation import Outcome, Recipe, Setting, federate, noise_for, train_centrally
from simulation.sound import load_sounds
from simulation.table import make_table
from simulation.task import Task, accuracy, make_task, poor_labels, split

SPLITS = ("uploader", "speaker", "dirichlet")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with esc10/, fsdd/ and, where there, corpus/")
    parser.add_argument("--cache", type=Path, required=True, help="where the encoder's outputs are kept (.npz)")
    parser.add_argument("--devices", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--epsilon", type=epsilon, default=8.0, help="per clip, for all rounds, at delta 1e-5; or none")
    parser.add_argument("--split", choices=SPLITS, default="speaker", help="how clips fall to devices")
    parser.add_argument("--dropout", type=float, default=0.0, help="share of devices that fall silent in a round")
    parser.add_argument("--lies", type=float, default=0.0, help="share of devices whose labels are wrong")
    parser.add_argument("--noise", type=float, default=0.0, choices=(0.0, 1.0, 4.0), help="device-level noise of the sums (z)")
    parser.add_argument("--rank", type=int, default=Recipe.rank, help="directions that the head hears in")
    parser.add_argument("--seed", type=int, default=0, help="splits and drop-outs; privacy's randomness has none")
    parser.add_argument("--table", action="store_true", help="epsilon {none, 8, 4, 2, 1} by devices {20, 30, 50, 200}")
    parser.add_argument("--write", type=Path, help="with --table: a Markdown file for it, and a plot beside it")
    return parser.parse_args(given)


def epsilon(text: str) -> float | None:
    """Read a number above 0, or "none"."""
    if text == "none":
        return None
    value = float(text)
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError("a number above 0, or none")
    return value


def setting_of(asked: argparse.Namespace) -> Setting:
    """Return what the command line asks for."""
    recipe = Recipe(rank=asked.rank)
    return Setting(asked.rounds, asked.epsilon, asked.dropout, asked.lies, asked.noise, asked.seed, recipe)


def main(given: list[str] | None = None) -> int:
    """Simulate, and print what came of it."""
    asked = arguments(given)
    task = make_task(load_sounds(asked.data, asked.cache), asked.rank)
    if asked.table:
        make_table(task, setting_of(asked), asked.split, asked.write)
        return 0
    print(json.dumps(simulate(task, setting_of(asked), asked.devices, asked.split)))
    return 0


def simulate(task: Task, setting: Setting, devices: int, how: str) -> dict[str, object]:
    """Run one federation, the same without privacy, and a central training; return the last line's object."""
    from dataclasses import replace

    clips, is_again = split(task, devices, how, np.random.default_rng(setting.seed))
    base = task.recalls(None)
    poor, every = poor_labels(base), list(task.schema.labels)
    outcome = federate(task, clips, setting)
    no_dp = outcome if setting.epsilon is None else federate(task, clips, replace(setting, epsilon=None))
    heads = {"": outcome.arrays, "_base": None, "_central": train_centrally(task, clips, setting), "_no_dp": no_dp.arrays}
    recalls = {name: task.recalls(arrays) for name, arrays in heads.items()}
    print(describe(task, setting, outcome, is_again=is_again), file=sys.stderr)
    for label in every:
        print(f"  {label}: " + ", ".join(f"{n or 'federated'} {r[label][0]}/{r[label][1]}" for n, r in recalls.items()), file=sys.stderr)
    result: dict[str, object] = {f"accuracy{name}": round(accuracy(each, poor), 4) for name, each in recalls.items()}
    result |= {f"accuracy_all{name}": round(accuracy(each, every), 4) for name, each in recalls.items()}
    spent = None if setting.epsilon is None else round(outcome.epsilon, 3)
    return result | {"seconds": round(outcome.seconds, 1), "rounds": setting.rounds, "devices": devices, "epsilon": spent}


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
    sys.exit(main())
