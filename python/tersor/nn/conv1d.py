"""One-dimensional convolutions from compressed filters: those of images of height 1."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from tersor.config import LayerConfig
from tersor.nn.base import Compressed, autocast, refuse_what_operators_get_wrong
from tersor.nn.conv import CompressedConv2d
from tersor.nn.execution import finished, run_fastest
from tersor.nn.from_dense import compress_layer
from tersor.ops.forward import run_conv2d


def samples_of_padding(module: Any) -> tuple[int, int]:
    """Samples of padding left and right, as ``F.pad`` takes them."""
    if module.padding == "valid":
        return 0, 0
    if module.padding == "same":
        total = module.dilation[0] * (module.kernel_size[0] - 1)
        return total // 2, total - total // 2
    return int(module.padding[0]), int(module.padding[0])


class CompressedConv1d(Compressed):
    """``nn.Conv1d`` on compressed filters ``[out, in / groups, k]``."""

    attributes: ClassVar[tuple[str, ...]] = CompressedConv2d.attributes

    in_channels: int
    kernel_size: tuple[int]
    stride: tuple[int]
    dilation: tuple[int]
    groups: int
    padding_mode: str

    @classmethod
    def from_dense(
        cls,
        module: nn.Conv1d,
        settings: LayerConfig,
        name: str = "conv",
        importance: Any = None,
        activation: str = "none",
    ) -> CompressedConv1d:
        """Compresses a dense layer; arguments and errors as of :class:`CompressedConv2d`."""
        return compress_layer(cls, module, settings, name, importance, activation)

    @classmethod
    def empty_like(cls, module: nn.Conv1d) -> CompressedConv1d:
        """A layer of the same geometry without filters; none are read or allocated."""
        channels = module.in_channels // module.groups
        return cls._empty(module, (module.out_channels, channels, *module.kernel_size))

    def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Signals ``[n, c, t]`` (or ``[c, t]``) to ``[n, out, t']``.

        ``residual``, of the result's shape, is added before the activation.
        """
        x = autocast(input)
        if x.dim() not in (2, 3) or x.shape[-2] != self.in_channels:
            raise ValueError(f"x has shape {list(x.shape)}, expected [n, {self.in_channels}, t]")
        signals = x.unsqueeze(0) if x.dim() == 2 else x
        if residual is not None and x.dim() == 2:
            residual = residual.unsqueeze(0)
        left, right = samples_of_padding(self)
        # The kernel pads with zeros, alike on both sides; all else is padded before it.
        if self.padding_mode != "zeros" or left != right:
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            signals = F.pad(signals, (left, right), mode)
            left = 0
        y = self._convolve(signals, left, residual)
        return y.squeeze(0) if x.dim() == 2 else y

    def _convolve(
        self, signals: torch.Tensor, padding: int, residual: torch.Tensor | None
    ) -> torch.Tensor:
        geometry = (
            [1, *self.kernel_size],
            [1, *self.stride],
            [0, padding],
            [1, *self.dilation],
            self.groups,
        )
        images = signals.unsqueeze(2)
        added = None if residual is None else residual.unsqueeze(2)
        if not self._runs_eagerly(signals, self.bias, self.values, residual):
            refuse_what_operators_get_wrong(
                signals,
                weight=self.weight_blob,
                codebook=self.values,
                bias=self.bias,
                residual=residual,
            )
            blob, values, bias = self.weight_blob, self.values, self.bias
            operands = (images, blob, values, bias, added, self.shape[0])
            graphed: torch.Tensor = torch.ops.tersor.conv2d(
                *operands, *geometry, self.activation, self.precision
            )
            return graphed.squeeze(2)

        def compressed() -> torch.Tensor:
            how = (self.precision, self.activation, added)
            return run_conv2d(self.packed, images, self.bias, *geometry, *how).squeeze(2)

        def dense(weight: torch.Tensor) -> torch.Tensor:
            how = (self.stride, padding, self.dilation, self.groups)
            return finished(F.conv1d(signals, weight, self.bias, *how), self.activation, residual)

        others = [t for t in (signals, self.bias, residual) if t is not None]
        if self.execution == "compressed" or not all(t.is_cpu for t in others):
            return compressed()
        return run_fastest(self, signals, signals.numel(), compressed, dense, geometry[2][1])
