"""YAMNet's body as an ONNX graph: MobileNet-v1, batch norm folded into the convolutions, float32.

The layout is that of tensorflow/models, research/audioset/yamnet: one full convolution, then thirteen pairs of a depthwise
and a pointwise one, each followed by batch norm (no scale) and ReLU; then the mean over time and frequency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from base_model.graph import finish

if TYPE_CHECKING:
    import onnx

STRIDES = (2, *(step for stride in (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1) for step in (stride, 1)))
BATCH_NORM_EPSILON = 1e-4
FRAMES, BANDS, DIM, CLASSES = 96, 64, 1024, 521
LAYER = "layer-1/layer/_func/_yamnet/layer_with_weights-{}/{}/.ATTRIBUTES/VARIABLE_VALUE"


@dataclass(frozen=True)
class Convolution:
    """One folded layer: kernel (out, in / group, h, w), bias (out,), stride, and 1 or `out` groups."""

    kernel: np.ndarray
    bias: np.ndarray
    stride: int
    group: int


def fold_layers(tensors: dict[str, np.ndarray]) -> list[Convolution]:
    """The 27 convolutions with batch norm folded in; float64 inside, float32 out."""
    layers = []
    for at, stride in enumerate(STRIDES):
        depthwise = at % 2 == 1
        raw = tensors[LAYER.format(2 * at, "depthwise_kernel" if depthwise else "kernel")].astype(np.float64)
        kernel = raw.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
        beta, mean, variance = (
            tensors[LAYER.format(2 * at + 1, name)].astype(np.float64) for name in ("beta", "moving_mean", "moving_variance")
        )
        factor = 1.0 / np.sqrt(variance + BATCH_NORM_EPSILON)
        folded = (kernel * factor[:, None, None, None]).astype(np.float32)
        bias = (beta - mean * factor).astype(np.float32)
        layers.append(Convolution(folded, bias, stride, len(bias) if depthwise else 1))
    return layers


def classifier(tensors: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The class layer: kernel (1024, 521) and bias (521,); probability = sigmoid(embedding @ kernel + bias)."""
    last = 2 * len(STRIDES)
    return tensors[LAYER.format(last, "kernel")], tensors[LAYER.format(last, "bias")]


def encoder_graph(layers: list[Convolution]) -> onnx.ModelProto:
    """`log_mel` (n, 96, 64) float32 -> `embedding` (n, 1024) float32: what the shipped encoder is pruned from and held against."""
    nodes = [helper.make_node("Unsqueeze", ["log_mel", "axis"], ["x"])]
    constants = [numpy_helper.from_array(np.array([1], np.int64), "axis")]
    current = "x"
    for at, layer in enumerate(layers):
        kernel, name = f"kernel_{at:02}", f"layer_{at:02}"
        constants.append(numpy_helper.from_array(layer.kernel, kernel))
        constants.append(numpy_helper.from_array(layer.bias, f"bias_{at:02}"))
        size = layer.kernel.shape[2]
        # TensorFlow's SAME: a 3x3 kernel with stride 2 on an even length pads only behind.
        before = 0 if layer.stride == 2 else size // 2
        nodes.append(
            helper.make_node(
                "Conv",
                [current, kernel, f"bias_{at:02}"],
                [f"{name}_sum"],
                group=layer.group,
                kernel_shape=[size, size],
                strides=[layer.stride] * 2,
                pads=[before, before, size // 2, size // 2],
            )
        )
        nodes.append(helper.make_node("Relu", [f"{name}_sum"], [name]))
        current = name
    nodes.append(helper.make_node("GlobalAveragePool", [current], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["embedding"]))
    inputs = [helper.make_tensor_value_info("log_mel", TensorProto.FLOAT, ["n", FRAMES, BANDS])]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", DIM])]
    return finish(nodes, constants, inputs, outputs)
