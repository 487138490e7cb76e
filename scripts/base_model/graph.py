"""What both graphs share: a model file that holds no date, path or tool name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import helper

if TYPE_CHECKING:
    from collections.abc import Sequence

OPSET, IR_VERSION = 17, 8


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
