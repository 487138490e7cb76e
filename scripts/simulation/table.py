"""Accuracy by epsilon and by number of devices: a Markdown table, and a plot where matplotlib is installed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from simulation.federation import Setting, federate, train_centrally
from simulation.task import Task, accuracy, poor_labels, split

EPSILONS = (None, 8.0, 4.0, 2.0, 1.0)
DEVICES = (20, 30, 50, 200)
Table = dict[tuple[float | None, int], float]


def make_table(task: Task, setting: Setting, how: str, *, devices: tuple[int, ...] = DEVICES, write: Path | None = None) -> str:
    """Run every federation of the table, write it after each, and return it."""
    base = task.recalls(None)
    poor = poor_labels(base)
    cells: Table = {}
    notes = [f"Base model {accuracy(base, poor):.3f}, on {len(poor)} of {len(task.schema.labels)} labels."]
    text = ""
    for count in devices:
        clips, is_again = split(task, count, how, np.random.default_rng(setting.seed))
        central = accuracy(task.recalls(train_centrally(task, clips, setting)), poor)
        drawn = "clips drawn again across devices" if is_again else "distinct clips"
        notes.append(f"{count} devices: {drawn}; trained in one place without privacy {central:.3f}.")
        for epsilon in EPSILONS:
            outcome = federate(task, clips, replace(setting, epsilon=epsilon))
            cells[epsilon, count] = accuracy(task.recalls(outcome.arrays), poor)
            print(f"epsilon {epsilon}, {count} devices: {cells[epsilon, count]:.3f}, {outcome.seconds:.0f} s", file=sys.stderr)
            text = "\n".join([*markdown(cells, devices), "", *notes, ""])
            if write is not None:
                write.write_text(text, encoding="utf-8")
    if write is not None and not plot(cells, devices, write.with_suffix(".png")):
        print("no plot: matplotlib is not installed here", file=sys.stderr)
    return text


def markdown(cells: Table, devices: tuple[int, ...]) -> list[str]:
    """Return the lines of a table, a row for each epsilon."""
    rows = [("epsilon", *(f"{count} devices" for count in devices)), ("---",) * (len(devices) + 1)]
    for epsilon in EPSILONS:
        name = "no privacy" if epsilon is None else f"{epsilon:g}"
        rows.append((name, *(f"{cells[epsilon, count]:.3f}" if (epsilon, count) in cells else "" for count in devices)))
    return ["| " + " | ".join(row) + " |" for row in rows]


def plot(cells: Table, devices: tuple[int, ...], path: Path) -> bool:
    """Draw accuracy against epsilon as PNG; False if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    for count in devices:
        known = [(epsilon, cells[epsilon, count]) for epsilon in EPSILONS if epsilon is not None]
        axes.plot(*zip(*known, strict=True), marker="o", label=f"{count} devices")
        axes.axhline(cells[None, count], linestyle=":", linewidth=0.8)
    axes.set(xscale="log", xlabel="epsilon of a clip, all rounds (dotted: no privacy)", ylabel="accuracy on poor labels")
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    return True
