"""Torch modules become ONNX graphs with a free first axis; torch's tracing exporter does it, which needs no further library."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from pathlib import Path

OPSET = 17
TRACED_WORDS = 7


def export_sound(module: nn.Module, samples: int, path: Path) -> int:
    """Write a graph: `waveform (n, samples) float32` -> `embedding (n, dim)`; the dim."""
    generator = torch.Generator().manual_seed(1)
    example = torch.randn((2, samples), generator=generator) / 10
    return _export(module, path, (example,), ["waveform"], "embedding", {"waveform": {0: "n"}, "embedding": {0: "n"}})


def export_text(module: nn.Module, path: Path) -> int:
    """Write a graph: `input_ids`, `attention_mask (n, t) int64` -> `sentence (n, dim)`; the dim."""
    ids = torch.arange(5, 5 + 2 * TRACED_WORDS).reshape(2, TRACED_WORDS)
    axes = {"input_ids": {0: "n", 1: "t"}, "attention_mask": {0: "n", 1: "t"}, "sentence": {0: "n"}}
    return _export(module, path, (ids, torch.ones_like(ids)), ["input_ids", "attention_mask"], "sentence", axes)


def _export(
    module: nn.Module,
    path: Path,
    examples: tuple[torch.Tensor, ...],
    inputs: list[str],
    output: str,
    axes: dict[str, dict[int, str]],
) -> int:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter(
            "ignore"
        )  # the tracer tells of every number that it takes for a constant; parity shows what is right
        torch.onnx.export(
            module.eval(),
            examples,
            path,
            input_names=inputs,
            output_names=[output],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        columns: int = module(*examples).shape[1]
    return columns
