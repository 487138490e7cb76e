"""Size against quality against speed: a table and one plot from what benchmarks/labeler.py said of several encoders.

    python scripts/plot_front.py docs/labeler/front.jsonl docs/labeler/front.png

Each line of the first file is one JSON object: the benchmark's last line with a `name`. The float32 encoder's figures are in every
line, so it is drawn too. Needs matplotlib: pip install -e ".[plots]".
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from earmark_shared.errors import SettingsError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from common import Parser, plain_file, run

FLOAT32_MB = 12.8
KEYS = {"name", "encoder_mb", "vs_fp32", "linear", "qbe_map", "linear_fp32", "qbe_map_fp32"}


def read(path: Path) -> list[dict[str, Any]]:
    """The encoders, the float32 one first, then by size from large to small; SettingsError if the file holds none."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as refusal:
        raise SettingsError(f"{path} is not JSON, one object a line ({refusal})") from refusal
    gone = sorted(set().union(*(KEYS - row.keys() if isinstance(row, dict) else KEYS for row in rows or [{}])))
    if gone:
        raise SettingsError(
            f"{path} has no {', '.join(gone)}", hint="each line is the last of benchmarks/labeler.py, with a name"
        )
    exact = rows[0]
    float32 = {
        "name": "float32",
        "encoder_mb": FLOAT32_MB,
        "vs_fp32": 1.0,
        "linear": exact["linear_fp32"],
        "qbe_map": exact["qbe_map_fp32"],
    }
    return [float32, *sorted(rows, key=lambda row: -row["encoder_mb"])]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| encoder | MB | times float32's speed | linear | query by example |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {row['name']} | {row['encoder_mb']:.2f} | {row['vs_fp32']:.2f} | {row['linear']:.3f} | {row['qbe_map']:.3f} |"
        for row in rows
    ]
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Quality over size, two panels; a point's area grows with its speed, which the legend tells in the order of quality."""
    try:
        from matplotlib.figure import Figure
    except ImportError as refusal:
        raise SettingsError("matplotlib is not installed here", hint='pip install -e ".[plots]"') from refusal

    figure = Figure(figsize=(13, 4))
    for axes, key, least in zip(figure.subplots(1, 2), ("linear", "qbe_map"), (0.015, 0.03), strict=True):
        for row in sorted(rows, key=lambda row, key=key: -row[key]):
            label = f"{row['name']}: {row['vs_fp32']:.2f}x, {row[key]:.3f}"
            color = f"C{rows.index(row)}"
            axes.scatter(row["encoder_mb"], row[key], s=20 * row["vs_fp32"] ** 2, color=color, alpha=0.8, label=label)
        axes.axhline(rows[0][key] - least, linestyle=":", linewidth=1, label=f"float32 less {least:g}")
        axes.axvline(2.5, linestyle=":", linewidth=1, color="gray")
        axes.set(xlabel="MB", ylabel=key, xscale="log", xlim=(1, 16))
        axes.set_xticks([1, 2, 4, 8, 12], ["1", "2", "4", "8", "12"])
        axes.legend(fontsize=7, loc="lower right", markerscale=0.6)
    figure.savefig(path, dpi=80, bbox_inches="tight")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument("figures", type=plain_file)
    parser.add_argument("image", type=Path)
    return parser.parse_args(given)


def main() -> None:
    """Run from the command line."""
    options = arguments()
    rows = read(options.figures)
    print(table(rows))
    plot(rows, options.image)


if __name__ == "__main__":
    run(main)
