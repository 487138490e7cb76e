"""The fitted student as a file: what it takes to write the shipped graph again, to the byte, without any recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from base_model.audio_graph import STRIDES
from safetensors.torch import load_file, save_file

from student.network import FLOAT_LAYERS, Encoder, Layer

if TYPE_CHECKING:
    from pathlib import Path

FITTED = "fitted.safetensors"


def save(student: Encoder, path: Path) -> None:
    """Kernels as whole numbers of their scales (the first layers' in float32), biases, and where the outputs belong."""
    tensors = {"spread": student.spread, "places": student.places.to(torch.int16)}
    for at, layer in enumerate(student.layers):
        tensors[f"kernel_{at:02}"], tensors[f"bias_{at:02}"] = layer.kernel, layer.bias
        if at >= FLOAT_LAYERS:
            tensors[f"kernel_{at:02}"], tensors[f"scale_{at:02}"] = layer.codes().to(torch.int8), layer.scale
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def load(path: Path) -> Encoder:
    """What `save` wrote, rounding on."""
    tensors = load_file(path)
    layers = []
    for at in range(len(STRIDES)):
        layer = Layer(tensors[f"kernel_{at:02}"].float(), tensors[f"bias_{at:02}"], at)
        if at >= FLOAT_LAYERS:
            layer.scale = tensors[f"scale_{at:02}"]
            layer.kernel = layer.kernel * layer.scale[:, None, None, None]
        layers.append(layer)
    student = Encoder(layers, tensors["spread"], tensors["places"].long())
    student.quantize()
    return student
