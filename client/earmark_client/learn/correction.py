"""The head's correction as a torch module, and the gradient of every clip by Opacus.

The numbers are those of `earmark_shared.head.correct`; a test holds the two together. Segments of a clip are a second axis, which
Opacus sums over: with the loss averaged over a clip's segments, a row of its per-sample gradients *is* the clip's averaged gradient.

All of it is float64. A clip's gradient depends in its last bits on which clips it is batched with, and through them the presence of
one clip could show in another's part of the sum; in float64 those bits lie 2^-30 below the grid that gradients are cut to.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from opacus.grad_sample import GradSampleModule, register_grad_sampler  # type: ignore[import-untyped]
from opacus.grad_sample.linear import compute_linear_grad_sample  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize

from earmark_client.learn.finetune import ClipBatch, TrainingSet
from earmark_shared.head import NAMES, Arrays, HeadSchema

Floats = npt.NDArray[np.float32]
_CERTAIN = -1e-6
"""Closest that a log probability comes to 0 before its complement's logarithm is taken."""


class Plain(nn.Linear):
    """A linear layer whose weights are given, so that torch's generator is not asked for any."""

    def reset_parameters(self) -> None:
        """Draw nothing."""


register_grad_sampler(Plain)(compute_linear_grad_sample)


class Correction(nn.Module):
    """`(clips, segments, inputs or rank)` and `(clips, segments, outputs)` to corrected unit text vectors."""

    def __init__(self, schema: HeadSchema, arrays: Arrays) -> None:
        """Take the arrays as they are."""
        super().__init__()
        self.down = Plain(schema.inputs, schema.rank, device="meta")
        self.up = Plain(schema.rank, schema.outputs, device="meta")
        self.hears = bool({"down", "shift"} & set(schema.trained))
        self.named = {name: _parameter(arrays[name], trained=name in schema.trained) for name in NAMES}
        self.down.weight, self.down.bias = self.named["down"], self.named["shift"]
        self.up.weight, self.up.bias = self.named["up"], self.named["bias"]

    def hear(self, encoder_outputs: Tensor) -> Tensor:
        """Return the unit features of encoder outputs."""
        return normalize(self.down(encoder_outputs), dim=-1)

    def move(self, features: Tensor, text: Tensor) -> Tensor:
        """Return corrected text vectors for features and unit text vectors."""
        return normalize(text + self.up(features), dim=-1)

    def forward(self, heard: Tensor, text: Tensor) -> Tensor:
        """Correct unit text vectors, from encoder outputs, or from features where a round doesn't change how they are heard."""
        return self.move(self.hear(heard) if self.hears else heard, text)


class ClipGradients:
    """Each clip's averaged gradient at given weights."""

    def __init__(self, schema: HeadSchema, arrays: Arrays, label_vectors: Floats, sharpness: float) -> None:
        """Wrap the correction once for a whole round."""
        self._schema = schema
        self._model = Correction(schema, arrays)
        self._hooked = GradSampleModule(self._model, loss_reduction="sum")
        self._label_vectors = torch.from_numpy(np.array(label_vectors, dtype=np.float64))
        self._sharpness = sharpness

    def prepared(self, data: TrainingSet) -> TrainingSet:
        """Return the set with all that stays the same in a round computed once, in float64."""
        with torch.no_grad():
            heard = torch.from_numpy(data.encoder_outputs).double()
            heard = heard if self._model.hears else self._model.hear(heard)
            text = normalize(torch.from_numpy(data.text).double(), dim=-1)
        return replace(data, encoder_outputs=heard.numpy(), text=text.numpy())

    def of(self, weights: npt.NDArray[np.float64], batch: ClipBatch) -> npt.NDArray[np.float64]:
        """Return `(clips, d) float64`, one row a clip, before any clipping; `batch` is cut from a `prepared` set."""
        self._load(weights)
        self._hooked.zero_grad(set_to_none=True)
        text = self._hooked(torch.from_numpy(batch.encoder_outputs), torch.from_numpy(batch.text))
        torch.autograd.backward(clip_losses(text @ self._label_vectors.T * self._sharpness, batch).sum())
        named = self._model.named
        samples = [getattr(named[name], "grad_sample") for name in self._schema.trained]  # noqa: B009  Opacus's own attribute
        return np.concatenate([sample.detach().numpy().reshape(len(batch.targets), -1) for sample in samples], axis=1)

    def _load(self, weights: npt.NDArray[np.float64]) -> None:
        named, at = self._model.named, 0
        for name in self._schema.trained:
            parameter = named[name]
            parameter.data = torch.from_numpy(weights[at : at + parameter.numel()].copy()).reshape(parameter.shape)
            at += parameter.numel()


def clip_losses(logits: Tensor, batch: ClipBatch) -> Tensor:
    """Return `(clips,)` losses from `(clips, segments, labels)` logits: a yes wants its label likely, a no unlikely.

    The softmax is over the shared label set. A segment with several answers counts once for its yeses and once for its noes, one
    without any for nothing.
    """
    targets = torch.from_numpy(batch.targets)
    likely = log_softmax(logits, dim=-1)
    unlikely = torch.log(-torch.expm1(likely.clamp(max=_CERTAIN)))
    yes, no = (targets > 0).double(), (targets < 0).double()
    losses = -(likely * yes).sum(-1) / yes.sum(-1).clamp(min=1.0) - (unlikely * no).sum(-1) / no.sum(-1).clamp(min=1.0)
    return (losses * torch.from_numpy(batch.weights)).sum(dim=1)


def _parameter(array: Floats, *, trained: bool) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.array(array, dtype=np.float64)), requires_grad=trained)
