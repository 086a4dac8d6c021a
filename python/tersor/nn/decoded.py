"""Layers that have no kernel for the compressed form yet: their weight is decoded.

``execution="compressed"`` decodes it for each call, so that nothing but the blob stays in memory;
``auto`` and ``dense`` decode it once and keep it. A layer type gets a kernel by overriding
``forward``; its state is the blob in any case.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from tersor.config import LayerConfig
from tersor.nn.base import Compressed, autocast, refuse_what_operators_get_wrong
from tersor.nn.conv import CompressedConv2d
from tersor.nn.execution import Choice, dense_weight_of, finished
from tersor.nn.from_dense import compress_layer

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_TRANSPOSED_TYPES = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

_KEPT = Choice("dense", "no kernel for this type of layer")


class Decoded(Compressed):
    """A layer whose forward needs the dense weight."""

    @classmethod
    def shape_of(cls, module: Any) -> tuple[int, ...]:
        """The shape of a dense layer's weight, from its attributes."""
        raise NotImplementedError

    @classmethod
    def from_dense(
        cls, module: nn.Module, settings: LayerConfig, name: str = "layer", importance: Any = None
    ) -> Decoded:
        """Compresses a dense layer; the dense one is left as it was.

        Raises:
            ValueError: the weight holds NaN or infinity; the message names the layer.
        """
        return compress_layer(cls, module, settings, name, importance, "none")

    @classmethod
    def empty_like(cls, module: Any) -> Decoded:
        """A layer of the same geometry without a weight; none is read or allocated."""
        return cls._empty(module, cls.shape_of(module))

    def _weight_for(self, *operands: torch.Tensor | None) -> torch.Tensor:
        """The dense weight for a product with these operands."""
        x = operands[0]
        assert x is not None
        if self._runs_eagerly(x, *operands[1:], self.bias, self.values):
            if self.execution == "compressed" or self.values is not None:
                return self.dense_weight().to(self.dtype)
            self.choices["kept"] = _KEPT
            return dense_weight_of(self)
        refuse_what_operators_get_wrong(
            x, weight=self.weight_blob, codebook=self.values, bias=self.bias
        )
        return self._decoded()


class CompressedConv3d(Decoded):
    """``nn.Conv3d`` on compressed filters ``[out, in / groups, kd, kh, kw]``."""

    attributes = CompressedConv2d.attributes

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str
    _reversed_padding_repeated_twice: list[int]

    @classmethod
    def shape_of(cls, module: Any) -> tuple[int, ...]:
        """As the base class."""
        return (module.out_channels, module.in_channels // module.groups, *module.kernel_size)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As torch's layer."""
        x = autocast(input)
        weight = self._weight_for(x)
        padding = self.padding
        if self.padding_mode != "zeros":
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        convolve = _CONVOLUTIONS[len(self.shape) - 3]
        geometry = (self.stride, padding, self.dilation, self.groups)
        return finished(convolve(x, weight, self.bias, *geometry), self.activation)


class _ConvTranspose(Decoded):
    """Transposed convolution on compressed filters ``[in, out / groups, ...]``."""

    attributes: ClassVar[tuple[str, ...]] = CompressedConv3d.attributes

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def shape_of(cls, module: Any) -> tuple[int, ...]:
        """As the base class."""
        return (module.in_channels, module.out_channels // module.groups, *module.kernel_size)

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """As torch's layer."""
        x = autocast(input)
        weight = self._weight_for(x)
        axes = len(self.shape) - 2
        kind: Any = _TRANSPOSED_TYPES[axes - 1]
        extra = kind._output_padding(
            self, x, output_size, self.stride, self.padding, self.kernel_size, axes, self.dilation
        )
        y = _TRANSPOSED[axes - 1](
            x, weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )
        return finished(y, self.activation)


class CompressedConvTranspose1d(_ConvTranspose):
    """``nn.ConvTranspose1d`` on compressed filters ``[in, out / groups, k]``."""


class CompressedConvTranspose2d(_ConvTranspose):
    """``nn.ConvTranspose2d`` on compressed filters ``[in, out / groups, kh, kw]``."""


class CompressedConvTranspose3d(_ConvTranspose):
    """``nn.ConvTranspose3d`` on compressed filters ``[in, out / groups, kd, kh, kw]``."""


class CompressedBilinear(Decoded):
    """``nn.Bilinear`` on a compressed weight ``[out, in1, in2]``."""

    attributes: ClassVar[tuple[str, ...]] = ("in1_features", "in2_features", "out_features")

    @classmethod
    def shape_of(cls, module: Any) -> tuple[int, ...]:
        """As the base class."""
        return (module.out_features, module.in1_features, module.in2_features)

    def forward(self, input1: torch.Tensor, input2: torch.Tensor) -> torch.Tensor:
        """``[..., in1_features]`` and ``[..., in2_features]`` to ``[..., out_features]``."""
        weight = self._weight_for(input1, input2)
        return finished(F.bilinear(input1, input2, weight, self.bias), self.activation)
