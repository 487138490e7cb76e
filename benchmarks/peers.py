"""What Earmark's way from file to vector is compared with. Only benchmarks import this: torch, librosa, transformers.

* `LibrosaTorch`: the very same encoder in torch, float32, fed by `librosa.load` and `librosa.feature.melspectrogram`.
* `Clap`: transformers' CLAP audio tower with random weights, fed by `librosa.load` at 48 kHz and its own feature extractor, file by
  file as its users call it: what is shorter than its 10 s window is repeated to fill it, so a 5 s file costs as much as a 10 s one.
  Two sizes: HTSAT-base (67.8 M parameters, the tower of laion/larger_clap_general, the peer of `vs_clap`), and HTSAT-tiny (27.5 M, the
  tower of laion/clap-htsat-unfused, `vs_clap_tiny`); `vs_clap_full` is HTSAT-base on files joined to full windows.

Both take one file after another with torch's default number of threads, as their users' scripts do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import librosa
import numpy as np
import onnx
import torch
from common import say
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from earmark_client.audio.features import MelSpec

    Arrays = dict[str, np.ndarray]

CLAP_RATE_HZ = 48_000
CLAP_WINDOW_S = 10.0
LARGEST_BATCH = 64
Values = Callable[[torch.Tensor], torch.Tensor]


class TorchEncoder:
    """An ONNX graph of convolutions, rectifiers and a mean, as torch calls on dequantized float32 weights.

    Values stay float32. With `rounds` they are rounded as the graph's integers are: slower, and only to show that it is the same encoder.
    """

    def __init__(self, path: Path, *, rounds: bool = False) -> None:
        """Walk the graph of `path` once."""
        graph = onnx.load(str(path)).graph
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._input, self._output = graph.input[0].name, graph.output[0].name
        self._steps = [step for node in graph.node if (step := _step(node, weights, rounds=rounds)) is not None]

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """(n, frames, bands) -> (n, dim)."""
        values = {self._input: patches}
        for source, target, op in self._steps:
            values = {target: op(values[source])}  # a chain: each value is used once
        return values[self._output]


def _step(node: onnx.NodeProto, weights: Arrays, *, rounds: bool) -> tuple[str, str, Values] | None:
    """(input, output, function) of one node; None for a weight, which joins the others as float32."""
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    source, target = node.input[0], node.output[0]
    if node.op_type == "DequantizeLinear" and source in weights:
        weights[target] = _dequantized(weights[source], weights[node.input[1]], given.get("axis", 1))
        return None
    if node.op_type in MOVES:
        return source, target, MOVES[node.op_type](*(weights[name] for name in node.input[1:2]))
    if node.op_type == "Conv":
        return source, target, _convolution(given, weights[node.input[1]], weights[node.input[2]])
    if node.op_type == "QuantizeLinear":
        return source, target, _held(weights[node.input[1]], rounds=rounds)
    if node.op_type == "QLinearConv":
        return source, target, _integer_convolution(node, given, weights, rounds=rounds)
    raise SystemExit(f"benchmarks/peers.py does not know the operator {node.op_type}")


MOVES: dict[str, Callable[..., Values]] = {
    "DequantizeLinear": lambda _: lambda values: values,
    "Flatten": lambda: lambda values: values.flatten(1),
    "Gather": lambda places: partial(torch.index_select, dim=1, index=torch.tensor(places)),
    "GlobalAveragePool": lambda: lambda values: values.mean(dim=(2, 3), keepdim=True),
    "Mul": lambda factor: torch.tensor(factor).mul,
    "Pad": lambda lengths: lambda values: torch.nn.functional.pad(values, (0, int(lengths[-1]))),
    "Relu": lambda: torch.relu,
    "Unsqueeze": lambda axis: lambda values: values.unsqueeze(int(axis.item())),
}
"""What changes no number but by a factor: a function of the node's constant, if it has one, gives that of the values."""


def _held(step: np.ndarray, *, rounds: bool) -> Values:
    """What 0 to 255 steps hold of a value: nothing below 0, and with `rounds` whole steps and no more than 255."""
    size = float(step)
    return (lambda values: (values / size).round().clamp(0, 255) * size) if rounds else torch.relu


def _integer_convolution(node: onnx.NodeProto, given: dict[str, list[int]], weights: Arrays, *, rounds: bool) -> Values:
    """A convolution of integers as one of the numbers they stand for, and what the next layer's integers hold of it."""
    _, step, _, codes, scale, _, out_step, _, bias = (weights.get(name) for name in node.input)
    if not rounds:
        kernel = _dequantized(codes, scale, 0)
        convolve = _convolution(given, kernel, (bias * (scale.astype(np.float64) * float(step))).astype(np.float32))
        return lambda values: torch.relu(convolve(values))
    # Whole numbers in float64, which are exact: a sum that is off by a hair falls on the other side of a half, and later layers make it loud.
    add, size = _convolution(given, codes.astype(np.float64), bias.astype(np.float64)), float(out_step)
    ratio = torch.from_numpy((np.float32(step) * scale / np.float32(out_step)).astype(np.float32))[:, None, None]
    return lambda values: (add((values / float(step)).round().double()).float() * ratio).round().clamp(0, 255) * size


def _dequantized(codes: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray:
    shape = [1] * codes.ndim
    if scale.ndim:
        shape[axis] = -1
    return codes.astype(np.float32) * scale.reshape(shape)


def _convolution(given: dict[str, list[int]], kernel: np.ndarray, bias: np.ndarray) -> Values:
    """A convolution; torch pads both sides alike, so what is not goes before it."""
    weight, offset = torch.from_numpy(kernel.copy()), torch.from_numpy(bias.copy())
    top, left, bottom, right = given["pads"]
    is_even = (top, left) == (bottom, right)
    padding = (top, left) if is_even else (0, 0)

    def run(values: torch.Tensor) -> torch.Tensor:
        padded = values if is_even else torch.nn.functional.pad(values, (left, right, top, bottom))
        return torch.conv2d(padded, weight, offset, stride=given["strides"], padding=padding, groups=int(given["group"]))

    return run


class LibrosaTorch:
    """File -> vectors, as a script with librosa and torch does it."""

    def __init__(self, encoder: Path, spec: MelSpec, hop_samples: int, *, rounds: bool = False) -> None:
        self.encoder = TorchEncoder(encoder, rounds=rounds)
        self._spec = spec
        self._patch_hop = hop_samples // spec.hop

    def patches(self, path: Path) -> np.ndarray:
        """Log-mel patches (n, frames, bands) of a file; a short one is padded to one patch."""
        spec = self._spec
        waveform, _ = librosa.load(path, sr=spec.sample_rate_hz)
        waveform = np.pad(waveform, (0, max(0, spec.segment_samples - len(waveform))))
        margin = (spec.n_fft - spec.win) // 2  # librosa puts the window in the middle of n_fft samples
        mel = librosa.feature.melspectrogram(
            y=np.pad(waveform, margin), sr=spec.sample_rate_hz, n_fft=spec.n_fft, win_length=spec.win, hop_length=spec.hop,
            center=False, power=spec.power, n_mels=spec.bands, fmin=spec.fmin, fmax=spec.fmax, htk=spec.htk, norm=None,
        )  # fmt: skip
        log_mel = np.log(mel + spec.log_offset).T.astype(np.float32)
        starts = range(0, len(log_mel) - spec.frames + 1, self._patch_hop)
        return np.stack([log_mel[start : start + spec.frames] for start in starts])

    def describe(self, path: Path) -> np.ndarray:
        """Vectors (n, dim) of a file."""
        with torch.inference_mode():
            parts = torch.from_numpy(self.patches(path)).split(LARGEST_BATCH)
            return torch.cat([self.encoder(part) for part in parts]).numpy()


HTSAT_BASE = {
    "patch_embeds_hidden_size": 128,
    "depths": [2, 2, 12, 2],
    "num_attention_heads": [4, 8, 16, 32],
    "hidden_size": 1024,
}
HTSAT_TINY: dict[str, object] = {}  # transformers' default


class Clap:
    """Sound -> vectors by CLAP's audio tower of one size."""

    def __init__(self, size: dict[str, object]) -> None:
        from transformers import ClapAudioConfig, ClapAudioModel, ClapFeatureExtractor

        torch.manual_seed(0)
        self._model = ClapAudioModel(ClapAudioConfig(**size)).eval()
        self._features = ClapFeatureExtractor(truncation="rand_trunc")

    def parameters(self) -> int:
        """How many weights it has."""
        return sum(weight.numel() for weight in self._model.parameters())

    def describe(self, window: np.ndarray) -> np.ndarray:
        """Up to 480,000 samples at 48 kHz -> (dim,)."""
        inputs = self._features(window, sampling_rate=CLAP_RATE_HZ, return_tensors="pt")
        with torch.inference_mode():
            return self._model(input_features=inputs["input_features"]).pooler_output[0].numpy()

    def seconds_per_second(self, files: Iterable[Path], most_s: float, *, is_joined: bool = False) -> float:
        """Sound per wall time, files one after another until `most_s` have gone; `is_joined` fills every window with the next files."""
        size = round(CLAP_RATE_HZ * CLAP_WINDOW_S)
        self.describe(np.zeros(size, np.float32))  # its first call builds tables
        rest = np.zeros(0, np.float32)
        done_s, started_s = 0.0, time.perf_counter()
        for path in files:
            rest = np.concatenate([rest, librosa.load(path, sr=CLAP_RATE_HZ)[0]])
            while len(rest) >= (size if is_joined else 1):
                self.describe(rest[:size])
                done_s += len(rest[:size]) / CLAP_RATE_HZ
                rest = rest[size:]
            if time.perf_counter() - started_s > most_s:
                break
        rate = done_s / (time.perf_counter() - started_s)
        windows = "full windows" if is_joined else "file by file"
        say(f"CLAP, {self.parameters() / 1e6:.1f} million parameters, {windows}: {done_s:.0f} s of sound at {rate:.1f} s/s")
        return rate
