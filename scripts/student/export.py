"""The student as an ONNX graph of integer convolutions, node by node.

`log_mel` (n, 96, 64) float32 -> `embedding` (n, 1024) float32, as the teacher's. The first layers are float32; then uint8 values
times int8 kernels with one scale per output channel, summed in 32 bits; the last layers have int8 kernels and float32 values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from base_model.audio_graph import BANDS, DIM, FRAMES
from base_model.graph import finish
from onnx import TensorProto, helper, numpy_helper

from student.network import ACTIVATION_STEP, FLOAT_LAYERS, FLOAT_TAIL

if TYPE_CHECKING:
    import onnx

    from student.network import Encoder, Layer


def _convolution(layer: Layer) -> dict[str, object]:
    size = layer.kernel.shape[2]
    before = 0 if layer.stride == 2 else size // 2
    return {
        "group": len(layer.kernel) if layer.is_depthwise else 1,
        "kernel_shape": [size, size],
        "strides": [layer.stride] * 2,
        "pads": [before, before, size // 2, size // 2],
    }


def _float_layer(layer: Layer, source: str, name: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Float values; a kernel that is rounded is stored as int8, which the runtime turns into floats once, when it opens the graph."""
    nodes = [
        helper.make_node("Conv", [source, f"{name}_kernel", f"{name}_bias"], [f"{name}_sum"], **_convolution(layer)),
        helper.make_node("Relu", [f"{name}_sum"], [name]),
    ]
    constants = [numpy_helper.from_array(layer.bias.numpy(), f"{name}_bias")]
    if layer.rounds_kernel:
        nodes.insert(0, helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [f"{name}_kernel"], axis=0))
        constants.append(numpy_helper.from_array(layer.codes().numpy().astype(np.int8), f"{name}_int8"))
        constants.append(numpy_helper.from_array(layer.scale.numpy(), f"{name}_scale"))
    else:
        constants.append(numpy_helper.from_array(layer.kernel.numpy(), f"{name}_kernel"))
    return nodes, constants


def _integer_layer(layer: Layer, source: str, name: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    scale = layer.scale.numpy()
    kernel = layer.codes().numpy().astype(np.int8)
    bias = np.rint(layer.bias.numpy().astype(np.float64) / (scale.astype(np.float64) * ACTIVATION_STEP))
    inputs = [source, "step", "zero", f"{name}_kernel", f"{name}_scale", f"{name}_zero", "step", "zero", f"{name}_bias"]
    constants = [
        numpy_helper.from_array(kernel, f"{name}_kernel"),
        numpy_helper.from_array(scale, f"{name}_scale"),
        numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name}_zero"),
        numpy_helper.from_array(bias.astype(np.int32), f"{name}_bias"),
    ]
    return [helper.make_node("QLinearConv", inputs, [name], **_convolution(layer))], constants


def encoder_graph(student: Encoder) -> onnx.ModelProto:
    """The graph of a student that was pruned and rounded."""
    places = np.full(DIM, len(student.places), np.int64)  # behind the last channel is the 0 of all outputs that went
    places[student.places.numpy()] = np.arange(len(student.places))
    nodes = [helper.make_node("Unsqueeze", ["log_mel", "axis"], ["x"])]
    constants = [
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
        numpy_helper.from_array(np.array(ACTIVATION_STEP, np.float32), "step"),
        numpy_helper.from_array(np.array(0, np.uint8), "zero"),
        numpy_helper.from_array(student.spread.numpy(), "spread"),
        numpy_helper.from_array(np.array([0, 0, 0, 1], np.int64), "one_more"),
        numpy_helper.from_array(places, "places"),
    ]
    current = "x"
    for at, layer in enumerate(student.layers):
        if at == FLOAT_LAYERS:
            nodes.append(helper.make_node("QuantizeLinear", [current, "step", "zero"], ["held"]))
            current = "held"
        if at == FLOAT_TAIL:
            nodes.append(helper.make_node("DequantizeLinear", [current, "step", "zero"], ["freed"]))
            current = "freed"
        name = f"layer_{at:02}"
        added = (_integer_layer if FLOAT_LAYERS <= at < FLOAT_TAIL else _float_layer)(layer, current, name)
        nodes += added[0]
        constants += added[1]
        current = name
    nodes.append(helper.make_node("GlobalAveragePool", [current], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["means"]))
    nodes.append(helper.make_node("Mul", ["means", "spread"], ["heard"]))
    nodes.append(helper.make_node("Pad", ["heard", "one_more"], ["padded"]))
    nodes.append(helper.make_node("Gather", ["padded", "places"], ["embedding"], axis=1))
    inputs = [helper.make_tensor_value_info("log_mel", TensorProto.FLOAT, ["n", FRAMES, BANDS])]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", DIM])]
    return finish(nodes, constants, inputs, outputs)
