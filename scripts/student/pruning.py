"""One-shot structured pruning: which channels go, by what the layer after them loses, and the weights that make up for it.

A channel of a pointwise layer's output is also a channel of the depthwise layer behind it and an input of the next pointwise one.
From the last layer to the first, inputs are taken away one by one, always the one whose loss the others can best make up for
(optimal brain surgeon on the layer's least-squares problem). Then, from the first to the last, each pointwise layer is solved anew
on what the pruned and rounded layers before it really give, to meet the teacher's sums in the channels that are kept: where inputs
went, all its weights; everywhere, what rounding its weights one after another leaves to those that come after.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from student.network import FLOAT_LAYERS, PAIR_PEAK, QUAD, WEIGHT_PEAK, Encoder, Layer, grid

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Order = npt.NDArray[np.int64]

ROWS = 120_000
"""Positions that a layer's least-squares problem is made of."""
KEEP_RIDGE, FIT_RIDGE = 1e-4, 1e-2
"""Shares of the inputs' mean power: a layer is drawn towards its weights as they are the more, the less the positions say."""
PEAK_SHARE, QUIET_SHARE = 0.99, 0.03
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
    inverse = np.linalg.inv(gram + KEEP_RIDGE * np.diag(gram).mean() * np.eye(len(gram)))
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
    """Which channels stay, for each of `widths`; of the outputs, all that sounds reach."""
    problems = []
    x = log_mel[:, None]
    for layer in teacher.layers:
        sums = layer.summed(x)
        if layer.kernel.shape[2] == 1:
            problem = Problem.of(x, sums)
            problems.append((problem.moments(problem.rows), problem.spread))
        x = functional.relu(sums)
    kept = [heard_outputs(x)]
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
            _fit(made, ours, wanted[:, chosen] / ranges[:, None, None], lost_inputs=start.shape[1] < layer.kernel.shape[1])
        ours = made(ours)
        student.append(made)
    return Encoder(student, ranges, teacher.places[torch.from_numpy(kept[-1])])


def _peaks(x: Tensor) -> Tensor:
    rows = _positions(x)
    return torch.topk(rows, max(1, round(len(rows) * (1 - PEAK_SHARE))), dim=0).values[-1]


def usual_peaks(x: Tensor) -> Tensor:
    """`(channels,)`: a high percentile of each channel of `(n, channels, h, w)`."""
    peaks = _peaks(x)
    return peaks.clamp_min(QUIET_SHARE * float(peaks.mean()))


def heard_outputs(x: Tensor) -> Order:
    """The channels of `(n, channels, h, w)` that sounds reach: a third of YAMNet's outputs answer to digital silence alone.

    In float32 they are 0 for any sound. Rounded, they are a little noise, and whoever divides by their spread makes it a lot.
    """
    peaks = _peaks(x)
    return torch.nonzero(peaks >= QUIET_SHARE * peaks.mean()).flatten().numpy()


def _fit(layer: Layer, x: Tensor, wanted: Tensor, *, lost_inputs: bool) -> None:
    """Round, each weight making up for those before it; solve anew first only where inputs went: all else is right as it is."""
    if layer.is_depthwise:
        return
    problem = Problem.of(x, wanted)
    kernel = torch.cat([layer.kernel[:, :, 0, 0], layer.bias[:, None]], dim=1).numpy().T.astype(np.float64)
    gram = problem.moments(problem.rows)
    gram += FIT_RIDGE * np.diag(gram).mean() * np.eye(len(gram))
    if lost_inputs:
        kernel += np.linalg.solve(gram, problem.moments(problem.sums - problem.rows @ kernel.astype(np.float32)))
    _write(layer, kernel)
    layer.set_scale()
    _write(layer, round_in_turn(gram, kernel))


def _write(layer: Layer, solved: Doubles) -> None:
    """`solved (in + 1, out)` into the layer."""
    rows = np.ascontiguousarray(solved.T, dtype=np.float32)
    layer.kernel = torch.from_numpy(rows[:, :-1].copy())[:, :, None, None]
    layer.bias = torch.from_numpy(rows[:, -1].copy())


def round_in_turn(gram: Doubles, kernel: Doubles) -> Doubles:
    """`kernel (in + 1, out)` with all rows but the last on each output's grid, one after another, those after it making up for it.

    Optimal brain compression (Frantar, Singh, Alistarh 2022) in the form of GPTQ (Frantar et al. 2022), with the sums of two weights
    of a quad bounded as `network.grid` has it.
    """
    kernel = kernel.copy()
    step = grid(torch.from_numpy(np.ascontiguousarray(kernel[:-1].T))).numpy()
    factor = np.linalg.cholesky(np.linalg.inv(gram)).T
    largest = np.zeros((2, len(step)))
    for at in range(len(gram) - 1):
        if at % QUAD == 0:
            largest[:] = 0
        highest, lowest = np.minimum(WEIGHT_PEAK, PAIR_PEAK - largest)
        code = np.clip(np.rint(kernel[at] / step), -lowest, highest)
        largest = np.maximum(largest, (code, -code))
        missed = (kernel[at] - code * step) / factor[at, at]
        kernel[at + 1 :] -= np.outer(factor[at, at + 1 :], missed)
        kernel[at] = code * step
    return kernel
