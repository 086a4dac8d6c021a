"""Convolutions from compressed filters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tersor.config import LayerConfig
from tersor.layer import encode_layer
from tersor.nn.compressed import Compressed
from tersor.ops import run_conv2d
from tersor.quantize import compress_weight


@dataclass(frozen=True)
class ConvParameters:
    """Height and width of each parameter, as ``nn.Conv2d`` has them."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]


def _padding(module: nn.Conv2d, name: str) -> tuple[int, int]:
    if module.padding_mode != "zeros":
        raise ValueError(f"{name}: padding_mode '{module.padding_mode}' is not supported")
    if module.padding == "valid":
        return 0, 0
    if module.padding == "same":
        reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        if reach[0] % 2 or reach[1] % 2:
            raise ValueError(f"{name}: padding 'same' with an even kernel is not supported")
        return reach[0] // 2, reach[1] // 2
    assert not isinstance(module.padding, str)
    return _pair(module.padding)


class CompressedConv2d(Compressed):
    """``nn.Conv2d`` on compressed filters ``[out, in / groups, kh, kw]``; zero padding."""

    def __init__(
        self,
        blob: npt.NDArray[np.uint8],
        bias: torch.Tensor | None,
        precision: str,
        parameters: ConvParameters,
    ) -> None:
        super().__init__(blob, bias, precision)
        self.parameters_2d = parameters

    @classmethod
    def from_dense(
        cls, module: nn.Conv2d, settings: LayerConfig, name: str = "conv"
    ) -> CompressedConv2d:
        """Compresses a dense layer; the dense one is left as it was.

        Raises:
            ValueError: the weight holds NaN or infinity, or the padding is of a kind that is not
                supported; the message names the layer.
        """
        parameters = ConvParameters(
            _pair(module.stride), _padding(module, name), _pair(module.dilation), module.groups
        )
        blob = encode_layer(compress_weight(module.weight, settings, name))
        return cls(blob, module.bias, settings.precision, parameters).train(module.training)

    def to_dense(self) -> nn.Conv2d:
        """The dense layer with the same filters."""
        rows, channels, *kernel = self.shape
        p = self.parameters_2d
        dense = nn.Conv2d(
            channels * p.groups,
            rows,
            (kernel[0], kernel[1]),
            stride=p.stride,
            padding=p.padding,
            dilation=p.dilation,
            groups=p.groups,
            bias=self.bias is not None,
        )
        with torch.no_grad():
            dense.weight.copy_(self.dense_weight())
            if self.bias is not None and dense.bias is not None:
                dense.bias.copy_(self.bias)
        return dense.train(self.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images ``[n, c, h, w]`` (or ``[c, h, w]``) to ``[n, out, h', w']``."""
        images = x.unsqueeze(0) if x.dim() == 3 else x
        rows, _, *kernel = self.shape
        p = self.parameters_2d
        geometry = (kernel, list(p.stride), list(p.padding), list(p.dilation), p.groups)
        if self._runs_eagerly(x):
            y = run_conv2d(self.packed, images, self.bias, *geometry, self.precision)
        else:
            y = torch.ops.tersor.conv2d(
                images, self.weight_blob, self.bias, rows, *geometry, self.precision
            )
        return y.squeeze(0) if x.dim() == 3 else y
