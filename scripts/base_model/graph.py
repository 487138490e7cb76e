"""What both graphs share: int8 constants with their scales, and a model file that holds no date, path or tool name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

OPSET, IR_VERSION = 17, 8


def quantize_per_channel(weight: np.ndarray, name: str, axis: int) -> tuple[list[onnx.TensorProto], onnx.NodeProto]:
    """`weight` as symmetric int8 with a scale for each index of `axis`, and the node that turns it back into `name`."""
    others = tuple(at for at in range(weight.ndim) if at != axis)
    peak = np.abs(weight.astype(np.float64)).max(axis=others, keepdims=True)
    scale = np.where(peak > 0, peak / 127.0, 1.0)
    stored = np.rint(weight / scale).astype(np.int8)
    tensors = [
        numpy_helper.from_array(stored, f"{name}_int8"),
        numpy_helper.from_array(scale.reshape(-1).astype(np.float32), f"{name}_scale"),
    ]
    node = helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], axis=axis)
    return tensors, node


def finish(
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """A checked model of one graph; the same parts give the same bytes."""
    graph = helper.make_graph(list(nodes), "encoder", list(inputs), list(outputs), list(constants))
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="")
    onnx.checker.check_model(model)
    return model


def to_bytes(model: onnx.ModelProto) -> bytes:
    """The model's file, byte for byte the same in every run."""
    return bytes(model.SerializeToString(deterministic=True))
