"""The encoder as a torch module: YAMNet's layout at any widths, in float32 or as its integer kernels will compute it.

Kernels get one scale per output channel and 7 bits (so that the sum of two products fits the 16 bits of AVX2's fastest
instruction), activations 8 bits and one fixed range, which also is the ReLU: what is below 0 is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from base_model.audio_graph import STRIDES
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from base_model.audio_graph import Convolution

FULL_WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
"""Output channels of the first convolution and of the thirteen pointwise ones."""
LAYERS = len(STRIDES)
FLOAT_LAYERS = 2
"""The first layers stay as they are, in float32: on few input channels ONNX Runtime's float kernels are the faster ones."""
WEIGHT_PEAK, ACTIVATION_PEAK = 63, 255
ACTIVATION_RANGE = 2.5
"""Every layer's output is held as 0 to 255 steps of 0 to this; `pruning.equalize` brings the channels there, training keeps them."""
ACTIVATION_STEP = ACTIVATION_RANGE / ACTIVATION_PEAK


@dataclass(frozen=True)
class Shape:
    """What a student looks like: `widths` as in `FULL_WIDTHS`."""

    widths: tuple[int, ...]

    def kernel(self, at: int) -> tuple[int, int, int, int]:
        """The kernel's shape of layer `at`."""
        width = self.widths[at // 2]
        if at == 0:
            return (width, 1, 3, 3)
        return (width, 1, 3, 3) if at % 2 else (width, self.widths[at // 2 - 1], 1, 1)


class Layer(nn.Module):
    """One convolution and its ReLU."""

    def __init__(self, kernel: Tensor, bias: Tensor, at: int) -> None:
        super().__init__()
        self.kernel, self.bias = nn.Parameter(kernel), nn.Parameter(bias)
        self.stride, self.is_depthwise = STRIDES[at], at % 2 == 1
        self.rounds_kernel, self.rounds_output = at >= FLOAT_LAYERS, at >= FLOAT_LAYERS - 1
        self.is_quantized = False
        self.register_buffer("scale", torch.ones(len(kernel)))
        """`(out,)`: the value of one step of the stored kernel."""
        self.register_buffer("unit", torch.ones(len(kernel)))
        """`(out,)`: what the numbers in `kernel` count; 1 but while it is trained."""
        self.set_scale()

    def set_scale(self) -> None:
        """Lay each output channel's grid over its kernel as it is now."""
        self.scale.copy_(self.kernel.detach().abs().amax(dim=(1, 2, 3)).clamp_min(1e-8) / WEIGHT_PEAK)

    def count_in(self, unit: Tensor) -> None:
        """Let `kernel` count this `(out,)` from now on, so that a step of training is as large for quiet channels as for loud ones."""
        with torch.no_grad():
            self.kernel *= (self.unit / unit)[:, None, None, None]
            self.unit.copy_(unit)

    def rounded_kernel(self) -> Tensor:
        """The kernel as it will be stored, in float; gradients pass the rounding as if it were not there."""
        zero = torch.zeros(len(self.kernel), dtype=torch.int32, device=self.kernel.device)
        kernel = self.kernel * self.unit[:, None, None, None]
        return torch.fake_quantize_per_channel_affine(kernel, self.scale, zero, 0, -WEIGHT_PEAK, WEIGHT_PEAK)

    def summed(self, x: Tensor) -> Tensor:
        """Before the ReLU."""
        kernel = self.rounded_kernel() if self.is_quantized and self.rounds_kernel else self.kernel
        groups = len(kernel) if self.is_depthwise else 1
        size = kernel.shape[2]
        if self.stride == 2:
            # TensorFlow's SAME: a 3x3 kernel with stride 2 on an even length pads only behind.
            x = functional.pad(x, (0, 1, 0, 1))
        return functional.conv2d(x, kernel, self.bias, self.stride, 0 if self.stride == 2 else size // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, in, h, w)` to `(n, out, h', w')`, nothing negative; as integers will hold it where it is quantized."""
        sums = self.summed(x)
        if self.is_quantized and self.rounds_output:
            return torch.fake_quantize_per_tensor_affine(sums, ACTIVATION_STEP, 0, 0, ACTIVATION_PEAK)
        return functional.relu(sums)


class Encoder(nn.Module):
    """`(n, 96, 64)` log-mel patches to `(n, 1024)`."""

    def __init__(self, layers: list[Layer], spread: Tensor) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.register_buffer("spread", spread)

    def forward(self, log_mel: Tensor) -> Tensor:
        """The embedding."""
        x = log_mel[:, None]
        with torch.no_grad():
            for layer in self.layers[:FLOAT_LAYERS]:
                x = layer(x)
        for layer in self.layers[FLOAT_LAYERS:]:
            x = layer(x)
        return x.mean(dim=(2, 3)) * self.spread

    def quantize(self, *, on: bool = True) -> None:
        """From now on round, or don't."""
        for layer in self.layers:
            layer.is_quantized = on


def from_convolutions(convolutions: list[Convolution]) -> Encoder:
    """The teacher: the folded upstream layers as they are."""
    pairs = [(torch.from_numpy(layer.kernel.copy()), torch.from_numpy(layer.bias.copy())) for layer in convolutions]
    return Encoder([Layer(kernel, bias, at) for at, (kernel, bias) in enumerate(pairs)], torch.ones(len(pairs[-1][1])))


def empty(shape: Shape) -> Encoder:
    """A student to load weights into."""
    kernels = [torch.zeros(shape.kernel(at)) for at in range(LAYERS)]
    return Encoder(
        [Layer(kernel, torch.zeros(len(kernel)), at) for at, kernel in enumerate(kernels)], torch.ones(len(kernels[-1]))
    )
