"""Size against quality against speed: a table and one plot from what benchmarks/labeler.py said of several encoders.

    python scripts/plot_front.py docs/labeler/front.jsonl docs/labeler/front.png

Each line of the first file is one JSON object: the benchmark's last line with a `name`. The float32 encoder's figures are in every
line, so it is drawn too. Needs matplotlib: pip install -e ".[plots]".
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

FLOAT32_MB = 12.8


def read(path: Path) -> list[dict[str, Any]]:
    """The encoders, the float32 one first, then by size from large to small."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
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
    from matplotlib.figure import Figure

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


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path)
    parser.add_argument("image", type=Path)
    options = parser.parse_args()
    rows = read(options.figures)
    print(table(rows))
    plot(rows, options.image)


if __name__ == "__main__":
    main()
