"""The encoder in torch: YAMNet's layout at any widths, in float32 or as its integer kernels compute it.

Kernels get one scale per output channel and 8 bits, but no two weights of one sign that AVX2's fastest instruction may add (it has
16 bits for two products) are more than 128 together; activations get 8 bits and one fixed range, which also is the ReLU: what is
below 0 is 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from base_model.audio_graph import STRIDES
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from base_model.audio_graph import Convolution

FULL_WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
"""Output channels of the first convolution and of the thirteen pointwise ones."""
FLOAT_LAYERS, FLOAT_TAIL = 2, 23
"""The first layers stay as they are, in float32: on few input channels ONNX Runtime's float kernels are the faster ones. From
`FLOAT_TAIL` on, only kernels are rounded: there values differ most in size, and a layer has few places to compute (docs/labeler.md)."""
WEIGHT_PEAK, PAIR_PEAK, ACTIVATION_PEAK = 127, 128, 255
QUAD = 4
"""Inputs that lie side by side in the runtime's packed kernels; two products of one quad are what is added in 16 bits."""
ACTIVATION_RANGE = 4.0
"""Every layer's output is held as 0 to 255 steps of 0 to this many times what is usual in its channel (`pruning.usual_peaks`)."""
ACTIVATION_STEP = ACTIVATION_RANGE / ACTIVATION_PEAK


class Layer:
    """One convolution and its ReLU."""

    def __init__(self, kernel: Tensor, bias: Tensor, at: int) -> None:
        self.kernel, self.bias = kernel, bias
        self.stride, self.is_depthwise = STRIDES[at], at % 2 == 1
        self.rounds_kernel, self.rounds_output = at >= FLOAT_LAYERS, FLOAT_LAYERS - 1 <= at < FLOAT_TAIL
        self.is_quantized = False
        self.scale = grid(kernel.flatten(1))
        """`(out,)`: the value of one step of the stored kernel."""

    def set_scale(self) -> None:
        """Lay each output channel's grid over its kernel as it is now."""
        self.scale = grid(self.kernel.flatten(1))

    def codes(self) -> Tensor:
        """The kernel as it will be stored: whole numbers of `scale`."""
        return (self.kernel / self.scale[:, None, None, None]).round().clamp(-WEIGHT_PEAK, WEIGHT_PEAK)

    def rounded_kernel(self) -> Tensor:
        """The kernel as it will be stored, in float."""
        return self.codes() * self.scale[:, None, None, None]

    def summed(self, x: Tensor) -> Tensor:
        """Before the ReLU."""
        kernel = self.rounded_kernel() if self.is_quantized and self.rounds_kernel else self.kernel
        groups = len(kernel) if self.is_depthwise else 1
        size = kernel.shape[2]
        if self.stride == 2:
            # TensorFlow's SAME: a 3x3 kernel with stride 2 on an even length pads only behind.
            x = functional.pad(x, (0, 1, 0, 1))
        return functional.conv2d(x, kernel, self.bias, self.stride, 0 if self.stride == 2 else size // 2, groups=groups)

    def __call__(self, x: Tensor) -> Tensor:
        """`(n, in, h, w)` to `(n, out, h', w')`, nothing negative; as integers will hold it where it is quantized."""
        sums = self.summed(x)
        if self.is_quantized and self.rounds_output:
            return torch.fake_quantize_per_tensor_affine(sums, ACTIVATION_STEP, 0, 0, ACTIVATION_PEAK)
        return functional.relu(sums)


class Encoder:
    """`(n, 96, 64)` log-mel patches to `(n, 1024)`.

    Args:
        layers: The convolutions.
        spread: `(out,)` what the last one's channels are multiplied by.
        places: `(out,)` which of the 1024 numbers they are; the others are 0.
    """

    def __init__(self, layers: list[Layer], spread: Tensor, places: Tensor) -> None:
        self.layers = layers
        self.spread, self.places = spread, places

    def __call__(self, log_mel: Tensor) -> Tensor:
        """The embedding."""
        x = log_mel[:, None]
        for layer in self.layers:
            x = layer(x)
        embedding = torch.zeros(len(x), FULL_WIDTHS[-1])
        embedding[:, self.places] = x.mean(dim=(2, 3)) * self.spread
        return embedding

    def quantize(self, *, on: bool = True) -> None:
        """From now on round, or don't."""
        for layer in self.layers:
            layer.is_quantized = on


def grid(rows: Tensor) -> Tensor:
    """The finest steps `(out,)` by which `rows (out, in)` fit 8 bits, and any two of one sign in a quad fit `PAIR_PEAK`."""
    quads = functional.pad(rows, (0, -rows.shape[1] % QUAD)).reshape(len(rows), -1, QUAD)
    pairs = torch.stack([(sign * quads).clamp_min(0).topk(2).values.sum(dim=-1) for sign in (1, -1)])
    return torch.maximum(rows.abs().amax(dim=1) / WEIGHT_PEAK, pairs.amax(dim=(0, 2)) / PAIR_PEAK).clamp_min(1e-8)


def from_convolutions(convolutions: list[Convolution]) -> Encoder:
    """The teacher: the folded upstream layers as they are."""
    pairs = [(torch.from_numpy(layer.kernel.copy()), torch.from_numpy(layer.bias.copy())) for layer in convolutions]
    outputs = len(pairs[-1][1])
    return Encoder(
        [Layer(kernel, bias, at) for at, (kernel, bias) in enumerate(pairs)], torch.ones(outputs), torch.arange(outputs)
    )
