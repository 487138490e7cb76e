"""Accuracy by epsilon, by number of devices and by round: a Markdown table, and plots where matplotlib is installed."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from simulation.federation import Setting, federate, train_centrally, unclipped, without_noise
from simulation.task import Task, accuracy, poor_labels, split

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DEVICES = (20, 30, 50, 200)
ROWS = ("no privacy, own steps", "no noise", "8", "4", "2", "1")
PRIVATE = ROWS[2:]
Table = dict[tuple[str, int], npt.NDArray[np.float64]]
"""Row and number of devices -> `(runs, rounds)` accuracy after each round."""


def make_table(
    task: Task, setting: Setting, how: str, *, devices: tuple[int, ...] = DEVICES, runs: int = 1, write: Path | None = None
) -> str:
    """Run every federation of the table `runs` times, each on a split of its own, write the table after each cell, and return it."""
    poor, labels = poor_labels(task), list(task.schema.labels)
    cells: Table = {}
    every: Table = {}
    base = task.recalls(None)
    notes = [
        f"Base model {accuracy(base, poor):.3f} on {len(poor)} of {len(labels)} labels, {accuracy(base, labels):.3f} on all."
    ]
    text = ""
    for count in devices:
        settings = [replace(setting, seed=setting.seed + run) for run in range(runs)]
        splits = [split(task, count, how, np.random.default_rng(each.seed)) for each in settings]
        central = [task.recalls(train_centrally(task, clips, setting)) for clips, _ in splits]
        drawn = "clips drawn again across devices" if splits[0][1] else "distinct clips"
        in_one_place = " and ".join(f"{np.mean([accuracy(each, of) for each in central]):.3f}" for of in (poor, labels))
        notes.append(f"{count} devices: {drawn}; trained in one place without privacy {in_one_place} (all labels).")
        for row in ROWS:
            begun_s = time.monotonic()
            outcomes = [federate(task, clips, in_row(each, row)) for each, (clips, _) in zip(settings, splits, strict=True)]
            recalls = [[task.recalls(head) for head in outcome.heads] for outcome in outcomes]
            cells[row, count] = np.array([[accuracy(each, poor) for each in rounds] for rounds in recalls])
            every[row, count] = np.array([[accuracy(each, labels) for each in rounds] for rounds in recalls])
            told = f"epsilon {row}, {count} devices: {_cell(cells[row, count])}, spent {outcomes[0].epsilon:.2f}"
            print(f"{told}, {time.monotonic() - begun_s:.0f} s", file=sys.stderr, flush=True)
            text = "\n".join([*markdown(cells, devices), "", "All labels:", "", *markdown(every, devices), "", *notes, ""])
            if write is not None:
                write.mkdir(parents=True, exist_ok=True)
                (write / "table.md").write_text(text, encoding="utf-8")
    if write is not None and not plot(cells, devices, write / "accuracy.png"):
        print('no plot: matplotlib is not installed here; pip install -e ".[plots]"', file=sys.stderr)
    return text


def in_row(setting: Setting, row: str) -> Setting:
    """Return the setting of one row."""
    if row == ROWS[0]:
        return unclipped(setting)
    return without_noise(setting) if row == ROWS[1] else replace(setting, epsilon=float(row))


def markdown(cells: Table, devices: tuple[int, ...]) -> list[str]:
    """Return the lines of a table, a row for each epsilon."""
    rows = [("epsilon", *(f"{count} devices" for count in devices)), ("---",) * (len(devices) + 1)]
    rows += [(row, *(_cell(cells[row, count]) if (row, count) in cells else "" for count in devices)) for row in ROWS]
    return ["| " + " | ".join(row) + " |" for row in rows]


def _cell(runs: npt.NDArray[np.float64]) -> str:
    """Return where runs end: their mean and, of several, from where to where."""
    ends = runs[:, -1]
    return f"{ends.mean():.3f}" + (f" ({ends.min():.3f} to {ends.max():.3f})" if len(ends) > 1 else "")


def plot(cells: Table, devices: tuple[int, ...], path: Path) -> bool:
    """Draw accuracy against epsilon, rounds and devices as one PNG; False if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    means = {place: runs.mean(axis=0) for place, runs in cells.items()}
    figure = Figure(figsize=(13, 4))
    by_epsilon, by_round, by_devices = figure.subplots(1, 3, sharey=True)
    _draw_epsilon(by_epsilon, means, devices)
    most = max(count for count in devices if count <= 50) if min(devices) <= 50 else devices[0]
    for row in ROWS:
        by_round.plot(range(1, len(means[row, most]) + 1), means[row, most], label=_name(row))
        by_devices.plot(devices, [means[row, count][-1] for count in devices], marker="o", label=_name(row))
    by_round.set(xlabel=f"round, {most} devices")
    by_devices.set(xlabel="devices", xscale="log")
    by_devices.set_xticks(devices, map(str, devices))
    for axes in (by_epsilon, by_round, by_devices):
        axes.legend(fontsize=7)
        axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    figure.savefig(path, dpi=90, bbox_inches="tight")
    return True


def _draw_epsilon(axes: Axes, means: Table, devices: tuple[int, ...]) -> None:
    for count in devices:
        (line,) = axes.plot([float(row) for row in PRIVATE], [means[row, count][-1] for row in PRIVATE], marker="o")
        line.set_label(f"{count} devices")
        axes.axhline(means[ROWS[1], count][-1], linestyle=":", linewidth=0.8, color=line.get_color())
    axes.set(xscale="log", xlabel="epsilon of a clip, all rounds (dotted: no noise)", ylabel="accuracy on poor labels")
    axes.set_xticks([float(row) for row in PRIVATE], PRIVATE)


def _name(row: str) -> str:
    return f"epsilon {row}" if row in PRIVATE else row
