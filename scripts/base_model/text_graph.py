"""all-MiniLM-L6-v2 as an ONNX graph: BERT with 6 layers, mean pooling and unit length, written node by node.

An exporter would trace torch code, and one traced the attention mask wrongly; a BERT is small enough to write down.

In the int8 graph weights and activations are 8-bit integers, multiplied by `MatMulInteger`: a query then takes two thirds of the time
of ONNX Runtime's weights-only kernels, and less than float32. Each word's row has a scale of its own: one scale for a whole
tensor loses eight times as much. Weights are unsigned, since some processors' signed kernels saturate. A few of the numbers that a
layer norm puts out are twenty times the others'; part of them is moved into the weights (SmoothQuant: Xiao et al. 2023,
arXiv:2211.10438), by powers of two, so that another machine's last bits can't change the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from base_model.graph import finish, to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import onnx

LAYERS, HEADS, HEAD_DIM, DIM, MAX_TOKENS = 6, 12, 32, 384, 128
LAYER_NORM_EPSILON = 1e-12
MASKED = -1e9
HIGHEST_CODE, ZERO_CODE, HIGHEST_UNSIGNED = 127, 128, 255
MOVED = 0.65
"""The share of an input's spread that moves into the weights; between .6 and .7 the cosine to float32 is best (.9994 on average)."""
GELU_LEAST = 0.17
"""GELU never falls below minus this, so its rows take the whole unsigned range."""


class _Writer:
    """Collects nodes and constants; every method returns the name of what it made."""

    def __init__(self, peaks: Mapping[str, np.ndarray] | None) -> None:
        self.peaks = peaks
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.inputs: dict[str, str] = {}

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

    def linear(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray, *, is_gelu: bool = False) -> str:
        """`x` @ weight (in, out) + bias; in the int8 graph with rounded weights and inputs. `is_gelu`: `x` is a GELU's output."""
        self.inputs[name] = x
        if self.peaks is None:
            return self.op("Add", self.op("MatMul", x, self.const(f"{name}_weight", weight)), self.const(f"{name}_bias", bias))
        if not is_gelu:
            moved = _moved(self.peaks[name], weight)
            x, weight = self.op("Mul", x, self.const(f"{name}_moved", 1 / moved)), weight * moved[:, None]
        scale = (np.abs(weight).max(axis=0) / HIGHEST_CODE).astype(np.float32)
        codes = np.rint(weight / scale).astype(np.int16)
        if is_gelu:  # what was added to every input is taken off again here
            bias = bias - np.float32(GELU_LEAST) * (codes * scale).sum(axis=0, dtype=np.float32)
        rounded, step = self._round_gelu(x) if is_gelu else self._round(x)
        zeros = self.zero_code(0 if is_gelu else ZERO_CODE), self.zero_code(ZERO_CODE)
        stored = self.const(f"{name}_weight", (codes + ZERO_CODE).astype(np.uint8))
        product = self.op("Cast", self.op("MatMulInteger", rounded, stored, *zeros), to=TensorProto.FLOAT)
        product = self.op("Mul", self.op("Mul", product, self.const(f"{name}_scale", scale)), step)
        return self.op("Add", product, self.const(f"{name}_bias", bias))

    def zero_code(self, value: int) -> str:
        return self.const(f"code_{value}", np.array(value, np.uint8))

    def _round(self, x: str) -> tuple[str, str]:
        """Rows as codes around 128, and each row's step."""
        peak = self.op("ReduceMax", self.op("Abs", x), axes=[-1], keepdims=1)
        step = self.op("Mul", peak, self.scalar("per_code", 1 / HIGHEST_CODE))
        shifted = self.op("Add", self.op("Div", x, step), self.scalar("half_above_zero", ZERO_CODE + 0.5))
        return self.op("Cast", shifted, to=TensorProto.UINT8), step

    def _round_gelu(self, x: str) -> tuple[str, str]:
        """Rows plus GELU_LEAST as codes from 0 up, and each row's step."""
        least = self.scalar("gelu_least", GELU_LEAST)
        peak = self.op("Add", self.op("ReduceMax", x, axes=[-1], keepdims=1), least)
        step = self.op("Mul", peak, self.scalar("per_unsigned", 1 / HIGHEST_UNSIGNED))
        shifted = self.op("Add", self.op("Div", self.op("Add", x, least), step), self.scalar("half", 0.5))
        return self.op("Cast", shifted, to=TensorProto.UINT8), step

    def norm(self, x: str, name: str, scale: np.ndarray, shift: np.ndarray) -> str:
        constants = self.const(f"{name}_scale", scale), self.const(f"{name}_shift", shift)
        return self.op("LayerNormalization", x, *constants, axis=-1, epsilon=LAYER_NORM_EPSILON)

    def words(self, ids: str, table: np.ndarray) -> str:
        """Rows of the word table (vocabulary, 384); as int8 with one scale a row."""
        if self.peaks is None:
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
    down = out.linear(gelu, f"l{at}_down", weights[narrow + "weight"].T, weights[narrow + "bias"], is_gelu=True)
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


def sentence_graph(weights: dict[str, np.ndarray], peaks: Mapping[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """`input_ids`, `attention_mask` (n, t <= 128) int64 -> `sentence` (n, 384) float32, unit rows.

    In float32, or with the `peaks` of `input_peaks` in int8.
    """
    return _sentence_graph(_Writer(peaks), weights)


def input_peaks(weights: dict[str, np.ndarray], tokens: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """How large each linear layer's inputs get, by the layer's name: (in,) float32, the largest over texts' token ids (t,) int64."""
    import onnxruntime

    out = _Writer(None)
    model = _sentence_graph(out, weights)
    inner = sorted({*out.inputs.values()})
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inner)
    session = onnxruntime.InferenceSession(to_bytes(model), providers=["CPUExecutionProvider"])
    peaks: dict[str, np.ndarray] = {}
    for ids in tokens:
        found = session.run(inner, {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)})
        for name, rows in zip(inner, found, strict=True):
            peak = np.abs(rows[0]).max(axis=0)
            peaks[name] = np.maximum(peaks.get(name, peak), peak)
    return {layer: peaks[name] for layer, name in out.inputs.items()}


def _moved(peaks: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """What each input (in,) is divided by, and its weights (in, out) multiplied: a power of two."""
    exact = np.maximum(peaks, 1e-5) ** MOVED / np.maximum(np.abs(weight).max(axis=1), 1e-5) ** (1 - MOVED)
    return np.exp2(np.rint(np.log2(exact))).astype(np.float32)


def _sentence_graph(out: _Writer, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
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
    return finish(out.nodes, list(out.constants.values()), inputs, outputs)
