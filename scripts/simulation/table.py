"""Accuracy by epsilon, by number of devices and by round: a Markdown table, and plots where matplotlib is installed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from simulation.federation import Setting, federate, train_centrally, unclipped, without_noise
from simulation.task import Task, accuracy, poor_labels, split

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DEVICES = (20, 30, 50, 200)
ROWS = ("no privacy, own steps", "no noise", "8", "4", "2", "1")
PRIVATE = ROWS[2:]
Table = dict[tuple[str, int], list[float]]
"""Row and number of devices -> accuracy after each round."""


def make_table(task: Task, setting: Setting, how: str, *, devices: tuple[int, ...] = DEVICES, write: Path | None = None) -> str:
    """Run every federation of the table, write it after each, and return it."""
    poor = poor_labels(task)
    cells: Table = {}
    notes = [f"Base model {accuracy(task.recalls(None), poor):.3f}, on {len(poor)} of {len(task.schema.labels)} labels."]
    text = ""
    for count in devices:
        clips, is_again = split(task, count, how, np.random.default_rng(setting.seed))
        central = accuracy(task.recalls(train_centrally(task, clips, setting)), poor)
        drawn = "clips drawn again across devices" if is_again else "distinct clips"
        notes.append(f"{count} devices: {drawn}; trained in one place without privacy {central:.3f}.")
        for row in ROWS:
            outcome = federate(task, clips, in_row(setting, row))
            cells[row, count] = [accuracy(task.recalls(head), poor) for head in outcome.heads]
            told = f"epsilon {row}, {count} devices: {cells[row, count][-1]:.3f}, spent {outcome.epsilon:.2f}"
            print(f"{told}, {outcome.seconds:.0f} s, {outcome.cpu_s:.0f} s of processors", file=sys.stderr, flush=True)
            text = "\n".join([*markdown(cells, devices), "", *notes, ""])
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
    rows += [(row, *(f"{cells[row, count][-1]:.3f}" if (row, count) in cells else "" for count in devices)) for row in ROWS]
    return ["| " + " | ".join(row) + " |" for row in rows]


def plot(cells: Table, devices: tuple[int, ...], path: Path) -> bool:
    """Draw accuracy against epsilon, rounds and devices as one PNG; False if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    figure = Figure(figsize=(13, 4))
    by_epsilon, by_round, by_devices = figure.subplots(1, 3, sharey=True)
    _draw_epsilon(by_epsilon, cells, devices)
    most = max(count for count in devices if count <= 50) if min(devices) <= 50 else devices[0]
    for row in ROWS:
        by_round.plot(range(1, len(cells[row, most]) + 1), cells[row, most], label=_name(row))
        by_devices.plot(devices, [cells[row, count][-1] for count in devices], marker="o", label=_name(row))
    by_round.set(xlabel=f"round, {most} devices")
    by_devices.set(xlabel="devices", xscale="log")
    by_devices.set_xticks(devices, map(str, devices))
    for axes in (by_epsilon, by_round, by_devices):
        axes.legend(fontsize=7)
        axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    figure.savefig(path, dpi=90, bbox_inches="tight")
    return True


def _draw_epsilon(axes: Axes, cells: Table, devices: tuple[int, ...]) -> None:
    for count in devices:
        (line,) = axes.plot([float(row) for row in PRIVATE], [cells[row, count][-1] for row in PRIVATE], marker="o")
        line.set_label(f"{count} devices")
        axes.axhline(cells[ROWS[1], count][-1], linestyle=":", linewidth=0.8, color=line.get_color())
    axes.set(xscale="log", xlabel="epsilon of a clip, all rounds (dotted: no noise)", ylabel="accuracy on poor labels")
    axes.set_xticks([float(row) for row in PRIVATE], PRIVATE)


def _name(row: str) -> str:
    return f"epsilon {row}" if row in PRIVATE else row
