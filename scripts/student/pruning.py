"""One-shot structured pruning: which channels go, by what the layer after them loses, and the weights that make up for it.

A channel of a pointwise layer's output is also a channel of the depthwise layer behind it and an input of the next pointwise one.
From the last layer to the first, inputs are taken away one by one, always the one whose loss the others can best make up for
(optimal brain surgeon on the layer's least-squares problem). Then, from the first to the last, each pointwise layer is solved anew
on what the pruned layers before it really give, to meet the teacher's sums in the channels that are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from student.network import FLOAT_LAYERS, FULL_WIDTHS, WEIGHT_PEAK, Encoder, Layer

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Order = npt.NDArray[np.int64]

ROWS = 60_000
"""Positions that a layer's least-squares problem is made of."""
RIDGE = 1e-4
PEAK_SHARE = 0.99
"""A channel's range is made of this percentile of its values; `network.ACTIVATION_RANGE` times it can be held."""


def keep(gram: Doubles, kernel: Doubles, width: int) -> Order:
    """Backward elimination down to `width` inputs.

    Args:
        gram: `(in + 1, in + 1)` second moments of the inputs and a constant 1, which always stays.
        kernel: `(in + 1, out)`, the bias last.
        width: how many inputs stay.

    Returns:
        Those inputs, ascending.
    """
    inverse = np.linalg.inv(gram + RIDGE * np.diag(gram).mean() * np.eye(len(gram)))
    kernel = kernel.copy()
    alive = np.full(len(gram), True)
    for _ in range(len(gram) - 1 - width):
        inputs = np.flatnonzero(alive[:-1])
        cost = np.einsum("io,io->i", kernel[inputs], kernel[inputs]) / inverse[inputs, inputs]
        place = int(inputs[cost.argmin()])
        column = inverse[:, place] / inverse[place, place]
        kernel -= np.outer(column, kernel[place])
        inverse -= np.outer(column, inverse[place])
        alive[place] = False
    return np.flatnonzero(alive[:-1])


def _positions(x: Tensor) -> Tensor:
    """`(rows, channels)`: at most `ROWS` positions of `(n, channels, h, w)`, evenly spread."""
    flat = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    return flat[:: max(1, len(flat) // ROWS)]


@dataclass(frozen=True)
class Problem:
    """A pointwise layer's least squares: inputs with a constant 1 behind `(rows, in + 1)`, sums `(rows, out)`, and row weights.

    YAMNet answers digital silence with sums thirty times as large as any sound's. Rows are weighted down by how far they are from
    the middle, or those few would decide everything; and every output counts by its usual spread, not its largest.
    """

    rows: Floats
    sums: Floats
    weights: Floats
    spread: Floats

    @classmethod
    def of(cls, x: Tensor, sums: Tensor) -> Problem:
        """From `(n, in, h, w)` inputs and `(n, out, h, w)` sums."""
        flat, wanted = _positions(x), _positions(sums)
        some = wanted[:: max(1, len(wanted) // 8000)]
        middle = some.median(dim=0).values
        spread = 1.5 * (some - middle).abs().median(dim=0).values + 1e-3
        distance = (((wanted - middle) / spread) ** 2).clamp(max=1e6).mean(dim=1)
        rows = torch.cat([flat, torch.ones(len(flat), 1)], dim=1)
        return cls(rows.numpy(), wanted.numpy(), (1 / (1 + distance)).numpy(), spread.numpy())

    def moments(self, other: Floats) -> Doubles:
        """Weighted mean outer product of the inputs and `other (rows, k)`."""
        return ((self.rows * self.weights[:, None]).T @ other / self.weights.sum()).astype(np.float64)


@torch.no_grad()
def choose(teacher: Encoder, log_mel: Tensor, widths: tuple[int, ...]) -> list[Order]:
    """Which channels stay, for each of `widths`."""
    problems = []
    x = log_mel[:, None]
    for layer in teacher.layers:
        sums = layer.summed(x)
        if layer.kernel.shape[2] == 1:
            problem = Problem.of(x, sums)
            problems.append((problem.moments(problem.rows), problem.spread))
        x = functional.relu(sums)
    kept = [np.arange(FULL_WIDTHS[-1])]
    for at in range(len(problems) - 1, -1, -1):
        layer = teacher.layers[2 * at + 2]
        gram, spread = problems[at]
        kernel = torch.cat([layer.kernel[:, :, 0, 0], layer.bias[:, None]], dim=1).numpy().T.astype(np.float64) / spread
        kept.append(keep(gram, kernel[:, kept[-1]], widths[at]))
    return kept[::-1]


@torch.no_grad()
def prune(teacher: Encoder, kept: list[Order], log_mel: Tensor) -> Encoder:
    """A student of these channels whose every layer meets the teacher's sums on what the rounded layers before it give.

    Every channel gets the same range: what a layer's outputs are divided by, the next one's inputs make good. It costs nothing when
    the student runs, and lets 8 bits with one scale a layer hold channels whose loudness differs a hundredfold.
    """
    student: list[Layer] = []
    ours = theirs = log_mel[:, None]
    ranges = torch.ones(1)
    for at, layer in enumerate(teacher.layers):
        chosen = torch.from_numpy(kept[at // 2])
        wanted = layer.summed(theirs)
        theirs = functional.relu(wanted)
        if layer.kernel.shape[2] == 1:
            start = layer.kernel[chosen][:, torch.from_numpy(kept[at // 2 - 1])] * ranges[None, :, None, None]
        else:
            start = layer.kernel[chosen] * (ranges[:, None, None, None] if at else 1)
        ranges = torch.ones(len(chosen)) if at + 1 < FLOAT_LAYERS else usual_peaks(theirs[:, chosen])
        made = Layer(start / ranges[:, None, None, None], layer.bias[chosen] / ranges, at)
        made.is_quantized = True
        if at >= FLOAT_LAYERS:
            _fit(made, ours, wanted[:, chosen] / ranges[:, None, None])
        ours = made(ours)
        student.append(made)
    return Encoder(student, ranges)


def usual_peaks(x: Tensor) -> Tensor:
    """`(channels,)`: a high percentile of each channel of `(n, channels, h, w)`."""
    rows = _positions(x)
    peaks = torch.topk(rows, max(1, round(len(rows) * (1 - PEAK_SHARE))), dim=0).values[-1]
    return peaks.clamp_min(0.03 * float(peaks.mean()))


def _fit(layer: Layer, x: Tensor, wanted: Tensor) -> None:
    """Weighted least squares, drawn towards the weights as they are where the data say nothing; then rounded."""
    if layer.is_depthwise:
        problem = Problem.of(wanted, layer.summed(x))
        missed = problem.rows[:, :-1] - problem.sums
        layer.bias += torch.from_numpy(np.average(missed, axis=0, weights=problem.weights).astype(np.float32))
        return
    problem = Problem.of(x, wanted)
    start = torch.cat([layer.kernel[:, :, 0, 0], layer.bias[:, None]], dim=1).numpy().T.astype(np.float64)
    gram = problem.moments(problem.rows)
    gram += RIDGE * np.diag(gram).mean() * np.eye(len(gram))
    moment = problem.moments(problem.sums - problem.rows @ start.astype(np.float32))
    solved = start + np.linalg.solve(gram, moment)
    _write(layer, solved)
    layer.set_scale()
    _write(layer, round_in_turn(gram, solved))


def _write(layer: Layer, solved: Doubles) -> None:
    """`solved (in + 1, out)` into the layer."""
    rows = np.ascontiguousarray(solved.T, dtype=np.float32)
    layer.kernel.copy_(torch.from_numpy(rows[:, :-1].copy())[:, :, None, None])
    layer.bias.copy_(torch.from_numpy(rows[:, -1].copy()))


def round_in_turn(gram: Doubles, kernel: Doubles) -> Doubles:
    """`kernel (in + 1, out)` with all rows but the last on each output's grid, one after another, those after it making up for it."""
    kernel = kernel.copy()
    step = np.maximum(np.abs(kernel[:-1]).max(axis=0), 1e-8) / WEIGHT_PEAK
    factor = np.linalg.cholesky(np.linalg.inv(gram)).T
    for at in range(len(gram) - 1):
        rounded = np.clip(np.rint(kernel[at] / step), -WEIGHT_PEAK, WEIGHT_PEAK) * step
        missed = (kernel[at] - rounded) / factor[at, at]
        kernel[at + 1 :] -= np.outer(factor[at, at + 1 :], missed)
        kernel[at] = rounded
    return kernel
