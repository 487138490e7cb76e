"""all-MiniLM-L6-v2 as an ONNX graph: BERT with 6 layers, mean pooling and unit length, written node by node.

An exporter would trace torch code, and one traced the attention mask wrongly; a BERT is small enough to write down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from base_model.graph import finish

if TYPE_CHECKING:
    import onnx

LAYERS, HEADS, HEAD_DIM, DIM, MAX_TOKENS = 6, 12, 32, 384, 128
LAYER_NORM_EPSILON = 1e-12
MASKED = -1e9
BLOCK = 64
INT8_ACTIVATIONS = 4  # MatMulNBits' name for "round the input to 8 bits as well"
RUNTIME_DOMAIN = "com.microsoft"


class _Writer:
    """Collects nodes and constants; every method returns the name of what it made."""

    def __init__(self, *, int8: bool) -> None:
        self.int8 = int8
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def const(self, name: str, value: np.ndarray) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def scalar(self, name: str, value: float) -> str:
        return self.const(name, np.array(value, np.float32))

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        name = f"{kind}_{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}_{at}" for at in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return name

    def linear(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """`x` @ weight (in, out) + bias; as int8, with a scale for every 64 inputs of an output.

        ONNX Runtime rounds the input in the same blocks, row by row: one scale for a whole tensor (what its dynamic
        quantization does) loses eight times as much, and makes a text's vector depend on the texts beside it.
        """
        if self.int8:
            size, columns = weight.shape
            blocks = weight.T.reshape(columns, size // BLOCK, BLOCK)
            scale = np.abs(blocks).max(axis=2, keepdims=True) / np.float32(127)
            stored = (np.rint(blocks / scale) + 128).astype(np.uint8)
            constants = self.const(f"{name}_weight", stored), self.const(f"{name}_scale", scale.reshape(columns, -1))
            shape = {"K": size, "N": columns, "bits": 8, "block_size": BLOCK, "accuracy_level": INT8_ACTIVATIONS}
            product = self.op("MatMulNBits", x, *constants, domain=RUNTIME_DOMAIN, **shape)
        else:
            product = self.op("MatMul", x, self.const(f"{name}_weight", weight))
        return self.op("Add", product, self.const(f"{name}_bias", bias))

    def norm(self, x: str, name: str, scale: np.ndarray, shift: np.ndarray) -> str:
        constants = self.const(f"{name}_scale", scale), self.const(f"{name}_shift", shift)
        return self.op("LayerNormalization", x, *constants, axis=-1, epsilon=LAYER_NORM_EPSILON)

    def words(self, ids: str, table: np.ndarray) -> str:
        """Rows of the word table (vocabulary, 384); as int8 with one scale a row."""
        if not self.int8:
            return self.op("Gather", self.const("words", table), ids)
        scale = np.maximum(np.abs(table).max(axis=1, keepdims=True) / 127.0, np.finfo(np.float32).tiny)
        stored = np.rint(table / scale).astype(np.int8)
        rows = self.op("Cast", self.op("Gather", self.const("words", stored), ids), to=TensorProto.FLOAT)
        return self.op("Mul", rows, self.op("Gather", self.const("words_scale", scale.astype(np.float32)), ids))


def _attention(out: _Writer, x: str, mask: str, at: int, weights: dict[str, np.ndarray]) -> str:
    prefix = f"encoder.layer.{at}.attention."
    kinds = ("query", "key", "value")
    weight = np.concatenate([weights[f"{prefix}self.{kind}.weight"].T for kind in kinds], axis=1)
    bias = np.concatenate([weights[f"{prefix}self.{kind}.bias"] for kind in kinds])
    joint = out.linear(x, f"l{at}_qkv", weight, bias)
    parts = out.op("Split", joint, outputs=3, axis=-1)
    heads = out.const("heads", np.array([0, 0, HEADS, HEAD_DIM], np.int64))
    query, key, value = (
        out.op("Transpose", out.op("Reshape", f"{parts}_{which}", heads), perm=perm)
        for which, perm in enumerate(([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
    )
    scores = out.op("Mul", out.op("MatMul", query, key), out.scalar("head_scale", HEAD_DIM**-0.5))
    shares = out.op("Softmax", out.op("Add", scores, mask), axis=-1)
    mixed = out.op("Transpose", out.op("MatMul", shares, value), perm=[0, 2, 1, 3])
    flat = out.op("Reshape", mixed, out.const("flat", np.array([0, 0, DIM], np.int64)))
    done = out.linear(flat, f"l{at}_out", weights[f"{prefix}output.dense.weight"].T, weights[f"{prefix}output.dense.bias"])
    norm = f"{prefix}output.LayerNorm."
    return out.norm(out.op("Add", done, x), f"l{at}_attention_norm", weights[norm + "weight"], weights[norm + "bias"])


def _feed_forward(out: _Writer, x: str, at: int, weights: dict[str, np.ndarray]) -> str:
    prefix = f"encoder.layer.{at}."
    wide, narrow = f"{prefix}intermediate.dense.", f"{prefix}output.dense."
    up = out.linear(x, f"l{at}_up", weights[wide + "weight"].T, weights[wide + "bias"])
    bend = out.op("Add", out.op("Erf", out.op("Div", up, out.scalar("root_two", 2**0.5))), out.scalar("one", 1.0))
    gelu = out.op("Mul", out.op("Mul", up, bend), out.scalar("half", 0.5))
    down = out.linear(gelu, f"l{at}_down", weights[narrow + "weight"].T, weights[narrow + "bias"])
    norm = f"{prefix}output.LayerNorm."
    return out.norm(out.op("Add", down, x), f"l{at}_norm", weights[norm + "weight"], weights[norm + "bias"])


def _embed(out: _Writer, weights: dict[str, np.ndarray]) -> str:
    words = out.words("input_ids", weights["embeddings.word_embeddings.weight"])
    # One text is one sentence, so the sentence-type row is the same everywhere and joins the positions.
    places = weights["embeddings.position_embeddings.weight"][:MAX_TOKENS] + weights["embeddings.token_type_embeddings.weight"][0]
    zero, axis = out.const("zero", np.array([0], np.int64)), out.const("axis_0", np.array([0], np.int64))
    length = out.op("Shape", "input_ids", start=1, end=2)
    rows = out.op("Slice", out.const("places", places), zero, length, axis)
    scale, shift = weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"]
    return out.norm(out.op("Add", words, rows), "embed_norm", scale, shift)


def sentence_graph(weights: dict[str, np.ndarray], *, int8: bool) -> onnx.ModelProto:
    """`input_ids`, `attention_mask` (n, t <= 128) int64 -> `sentence` (n, 384) float32, unit rows."""
    out = _Writer(int8=int8)
    present = out.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    absent = out.op("Mul", out.op("Sub", out.scalar("one", 1.0), present), out.scalar("masked", MASKED))
    mask = out.op("Unsqueeze", absent, out.const("axes_1_2", np.array([1, 2], np.int64)))
    x = _embed(out, weights)
    for at in range(LAYERS):
        x = _feed_forward(out, _attention(out, x, mask, at, weights), at, weights)
    column = out.op("Unsqueeze", present, out.const("axis_2", np.array([2], np.int64)))
    axis = out.const("axis_1", np.array([1], np.int64))
    total = out.op("ReduceSum", out.op("Mul", x, column), axis, keepdims=0)
    mean = out.op("Div", total, out.op("ReduceSum", present, axis, keepdims=1))
    out.nodes.append(helper.make_node("LpNormalization", [mean], ["sentence"], axis=1, p=2))
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info("sentence", TensorProto.FLOAT, ["n", DIM])]
    return finish(out.nodes, list(out.constants.values()), inputs, outputs, [(RUNTIME_DOMAIN, 1)])
