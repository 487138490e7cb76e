"""Lessons: shards of patches with the teacher's embedding of each, made once and kept, so that every student hears the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnxruntime
from base_model.audio_graph import Convolution, encoder_graph
from base_model.graph import to_bytes

from student.mixing import BANDS, FRAMES, Mixer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from student.sounds import Floats, Sounds

SHARD = 4096
TEACHER_BATCH = 4


class Teacher:
    """The float32 encoder on ONNX Runtime, one thread."""

    def __init__(self, layers: list[Convolution]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        graph = to_bytes(encoder_graph(layers, int8=False))
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def __call__(self, log_mel: Floats) -> Floats:
        """`(n, 96, 64)` to `(n, 1024)`."""
        parts = [
            self._session.run(None, {"log_mel": log_mel[start : start + TEACHER_BATCH]})[0]
            for start in range(0, len(log_mel), TEACHER_BATCH)
        ]
        return np.concatenate(parts)


@dataclass(frozen=True)
class Lessons:
    """The shards in `folder`; those that are missing are made when first asked for."""

    folder: Path
    sounds: Sounds
    teacher: Teacher
    seed: int
    with_held: bool = False

    def shard(self, index: int) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]:
        """Patches `(SHARD, 96, 64)` and embeddings `(SHARD, 1024)`."""
        path = self.folder / f"{'all' if self.with_held else 'part'}-{self.seed}-{index:03}.npy"
        if not path.exists():
            self._make(path, index)
        stored = np.load(path)
        return stored[:, : FRAMES * BANDS].reshape(-1, FRAMES, BANDS), stored[:, FRAMES * BANDS :]

    def _make(self, path: Path, index: int) -> None:
        mixer = Mixer(self.sounds, self.seed * 1000 + index, with_held=self.with_held)
        patches = mixer.batch(SHARD).astype(np.float16)
        embedding = self.teacher(patches.astype(np.float32)).astype(np.float16)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, np.concatenate([patches.reshape(SHARD, -1), embedding], axis=1))
        partial.rename(path)


def held_patches(sounds: Sounds) -> Iterator[tuple[int, Floats]]:
    """Each held-out recording's number and its patches half a segment apart, as the product cuts them."""
    for clip in np.flatnonzero(sounds.is_held):
        yield int(clip), clip_patches(sounds, int(clip))


def clip_patches(sounds: Sounds, clip: int) -> Floats:
    """`(n, 96, 64)` log-mel patches of a recording."""
    starts = range(int(sounds.offsets[clip]), int(sounds.offsets[clip + 1]) - FRAMES + 1, FRAMES // 2)
    return np.log(np.stack([sounds.magnitudes(start, FRAMES) for start in starts]) + np.float32(1e-3))
