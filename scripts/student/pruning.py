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

from student.network import FULL_WIDTHS, Encoder

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Order = npt.NDArray[np.int64]

ROWS = 60_000
"""Positions that a layer's least-squares problem is made of."""
RIDGE = 1e-4


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
    """A student of these channels, each pointwise layer solved on what the layers before it give."""
    student: list[tuple[Tensor, Tensor]] = []
    ours = theirs = log_mel[:, None]
    for at, layer in enumerate(teacher.layers):
        chosen = torch.from_numpy(kept[at // 2])
        wanted = layer.summed(theirs)
        if layer.kernel.shape[2] == 1:
            inputs = torch.from_numpy(kept[at // 2 - 1])
            prior = torch.cat([layer.kernel[chosen][:, inputs, 0, 0], layer.bias[chosen][:, None]], dim=1)
            kernel, bias = _solve(ours, wanted[:, chosen], prior)
        else:
            kernel, bias = layer.kernel[chosen].clone(), layer.bias[chosen].clone()
        student.append((kernel, bias))
        ours = functional.relu(_summed(layer, ours, kernel, bias))
        theirs = functional.relu(wanted)
    return Encoder(student)


def _summed(layer: torch.nn.Module, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    if layer.stride == 2:
        x = functional.pad(x, (0, 1, 0, 1))
    padding = 0 if layer.stride == 2 else kernel.shape[2] // 2
    return functional.conv2d(x, kernel, bias, layer.stride, padding, groups=len(kernel) if layer.is_depthwise else 1)


def _solve(x: Tensor, wanted: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """Kernel and bias of weighted least squares, drawn towards `prior (out, in + 1)` where the data say nothing."""
    problem = Problem.of(x, wanted)
    start = prior.numpy().T
    gram = problem.moments(problem.rows)
    ridge = RIDGE * np.diag(gram).mean() * np.eye(len(gram))
    moment = problem.moments(problem.sums - problem.rows @ start)
    solved = (start + np.linalg.solve(gram + ridge, moment)).T.astype(np.float32)
    kernel = torch.from_numpy(np.ascontiguousarray(solved[:, :-1]))[:, :, None, None]
    return kernel, torch.from_numpy(np.ascontiguousarray(solved[:, -1]))


@torch.no_grad()
def equalize(student: Encoder, log_mel: Tensor, share: float = 0.99) -> None:
    """Give every channel of every layer the same range: what a layer's outputs are divided by, the next one's inputs make good.

    A range is a high percentile of a channel's values. It costs nothing when the student runs, and lets 8 bits with one scale a
    layer hold channels whose loudness differs a hundredfold.
    """
    x = log_mel[:, None]
    for at, layer in enumerate(student.layers):
        x = layer(x)
        rows = _positions(x)
        peaks = torch.topk(rows, max(1, round(len(rows) * (1 - share))), dim=0).values[-1]
        peaks = peaks.clamp_min(0.03 * float(peaks.mean()))
        layer.kernel /= peaks[:, None, None, None]
        layer.bias /= peaks
        x = x / peaks[:, None, None]
        if at + 1 == len(student.layers):
            student.spread.mul_(peaks)
        elif at % 2:
            student.layers[at + 1].kernel *= peaks[None, :, None, None]
        else:
            student.layers[at + 1].kernel *= peaks[:, None, None, None]
