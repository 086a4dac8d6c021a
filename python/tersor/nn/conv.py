"""Convolutions from compressed filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from tersor.codec.blob import encode_blob
from tersor.codec.encode import compress_weight
from tersor.config import LayerConfig
from tersor.nn.base import Compressed, autocast, refuse_forward_mode
from tersor.ops.forward import run_conv2d


@dataclass(frozen=True)
class ConvParameters:
    """The parameters of an ``nn.Conv2d`` as it has them; pairs are height and width."""

    stride: tuple[int, int]
    padding: str | tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    padding_mode: Literal["zeros", "reflect", "replicate", "circular"]

    @classmethod
    def of(cls, module: nn.Conv2d) -> ConvParameters:
        """Those of a dense layer."""
        padding = module.padding if isinstance(module.padding, str) else _pair(module.padding)
        return cls(
            _pair(module.stride),
            padding,
            _pair(module.dilation),
            module.groups,
            module.padding_mode,
        )

    def sides(self, kernel: tuple[int, int]) -> tuple[int, int, int, int]:
        """Pixels of padding left, right, above and below, as ``F.pad`` takes them."""
        if self.padding == "valid":
            return 0, 0, 0, 0
        if self.padding == "same":
            high, wide = (d * (k - 1) for d, k in zip(self.dilation, kernel, strict=True))
            return wide // 2, wide - wide // 2, high // 2, high - high // 2
        assert not isinstance(self.padding, str)
        high, wide = self.padding
        return wide, wide, high, high


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]


class CompressedConv2d(Compressed):
    """``nn.Conv2d`` on compressed filters ``[out, in / groups, kh, kw]``."""

    def __init__(
        self,
        blob: npt.NDArray[np.uint8],
        bias: torch.Tensor | None,
        precision: str,
        conv: ConvParameters,
        dtype: torch.dtype = torch.float32,
        activation: str = "none",
    ) -> None:
        super().__init__(blob, bias, precision, dtype, activation)
        self.conv = conv

    @classmethod
    def from_dense(
        cls,
        module: nn.Conv2d,
        settings: LayerConfig,
        name: str = "conv",
        importance: Any = None,
        activation: str = "none",
    ) -> CompressedConv2d:
        """Compresses a dense layer; the dense one is left as it was.

        ``importance`` has the weight's shape, as for :func:`tersor.codec.encode.compress_weight`;
        ``activation`` is fused.

        Raises:
            ValueError: the weight holds NaN or infinity; the message names the layer.
        """
        blob = encode_blob(compress_weight(module.weight, settings, name, importance))
        made = cls(
            blob,
            module.bias,
            settings.precision,
            ConvParameters.of(module),
            module.weight.dtype,
            activation,
        )
        return made.train(module.training)

    def to_dense(self) -> nn.Module:
        """The ``nn.Conv2d`` with the same filters; with an activation, an ``nn.Sequential``."""
        rows, channels, high, wide = self.shape
        conv = self.conv
        dense = self._dense_like(
            nn.Conv2d(
                channels * conv.groups,
                rows,
                (high, wide),
                conv.stride,
                conv.padding,
                conv.dilation,
                conv.groups,
                self.bias is not None,
                conv.padding_mode,
            )
        )
        return self._dense_activated(dense)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Images ``[n, c, h, w]`` (or ``[c, h, w]``) to ``[n, out, h', w']``.

        ``residual``, of the result's shape, is added before the activation.
        """
        x = autocast(x)
        rows, channels, high, wide = self.shape
        conv = self.conv
        if x.dim() not in (3, 4) or x.shape[-3] != channels * conv.groups:
            raise ValueError(
                f"x has shape {list(x.shape)}, expected [n, {channels * conv.groups}, h, w]"
            )
        images = x.unsqueeze(0) if x.dim() == 3 else x
        if residual is not None and x.dim() == 3:
            residual = residual.unsqueeze(0)
        left, right, above, below = conv.sides((high, wide))
        # The kernel pads with zeros, alike on both sides; all else is padded before it.
        if conv.padding_mode != "zeros" or left != right or above != below:
            mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
            images = F.pad(images, (left, right, above, below), mode)
            left = above = 0
        geometry = (
            [high, wide],
            list(conv.stride),
            [above, left],
            list(conv.dilation),
            conv.groups,
        )
        if self._runs_eagerly(images, self.bias, self.values, residual):
            y = run_conv2d(
                self.packed,
                images,
                self.bias,
                *geometry,
                self.precision,
                self.activation,
                residual,
            )
        else:
            refuse_forward_mode(images)
            y = torch.ops.tersor.conv2d(
                images,
                self.weight_blob,
                self.values,
                self.bias,
                residual,
                rows,
                *geometry,
                self.activation,
                self.precision,
            )
        return y.squeeze(0) if x.dim() == 3 else y
