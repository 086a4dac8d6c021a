"""Convolutions from compressed filters."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from tersor.config import LayerConfig
from tersor.nn.base import BLOB, Compressed, autocast, refuse_what_operators_get_wrong
from tersor.nn.execution import finished, known_choice, run_fastest
from tersor.nn.from_dense import compress_layer
from tersor.ops.forward import run_conv2d
from tersor.ops.packed import packed_of
from tersor.ops.torch_internals import fastest_conv2d


def pixels_of_padding(module: nn.Conv2d | CompressedConv2d) -> tuple[int, int, int, int]:
    """Pixels of padding left, right, above and below, as ``F.pad`` takes them."""
    if module.padding == "valid":
        return 0, 0, 0, 0
    if module.padding == "same":
        sizes = zip(module.dilation, module.kernel_size, strict=True)
        high, wide = (d * (k - 1) for d, k in sizes)
        return wide // 2, wide - wide // 2, high // 2, high - high // 2
    high, wide = (int(size) for size in module.padding)
    return wide, wide, high, high


class CompressedConv2d(Compressed):
    """``nn.Conv2d`` on compressed filters ``[out, in / groups, kh, kw]``."""

    attributes: ClassVar[tuple[str, ...]] = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "transposed",
        "output_padding",
        "groups",
        "padding_mode",
        "_reversed_padding_repeated_twice",
    )

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: str | tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    padding_mode: Literal["zeros", "reflect", "replicate", "circular"]

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
        return compress_layer(cls, module, settings, name, importance, activation)

    @classmethod
    def empty_like(cls, module: nn.Conv2d) -> CompressedConv2d:
        """A layer of the same geometry without filters; none are read or allocated."""
        channels = module.in_channels // module.groups
        return cls._empty(module, (module.out_channels, channels, *module.kernel_size))

    def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Images ``[n, c, h, w]`` (or ``[c, h, w]``) to ``[n, out, h', w']``.

        ``residual``, of the result's shape, is added before the activation.
        """
        x = autocast(input)
        # Past nn.Module's attribute look-up, which takes longer than a small layer.
        bias = self._parameters["bias"]
        values = self._parameters["values"]
        rows, _, high, wide = self.shape
        if x.dim() not in (3, 4) or x.shape[-3] != self.in_channels:
            raise ValueError(f"x has shape {list(x.shape)}, expected [n, {self.in_channels}, h, w]")
        images = x
        if x.dim() == 3:
            images = x.unsqueeze(0)
            residual = residual.unsqueeze(0) if residual is not None else None
        images, padding = self._padded(images)
        geometry = ((high, wide), self.stride, padding, self.dilation, self.groups)
        if self._runs_eagerly(images, bias, values, residual):
            y = self._run(images, bias, residual, geometry)
        else:
            blob = self._buffers[BLOB]
            refuse_what_operators_get_wrong(
                images, weight=blob, codebook=values, bias=bias, residual=residual
            )
            y = torch.ops.tersor.conv2d(
                images,
                blob,
                values,
                bias,
                residual,
                rows,
                *geometry,
                self.activation,
                self.precision,
            )
        return y.squeeze(0) if x.dim() == 3 else y

    def _padded(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Images padded as far as the kernel cannot, and the padding that is left to it.

        The kernel pads with zeros, alike on both sides.
        """
        if self.padding_mode == "zeros" and type(self.padding) is tuple:
            return images, self.padding
        left, right, above, below = pixels_of_padding(self)
        if self.padding_mode == "zeros" and left == right and above == below:
            return images, (above, left)
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(images, (left, right, above, below), mode), (0, 0)

    def _run(
        self,
        images: torch.Tensor,
        bias: torch.Tensor | None,
        residual: torch.Tensor | None,
        geometry: tuple[Any, Any, Any, Any, int],
    ) -> torch.Tensor:
        """The convolution by the way that is faster for images of this size, or asked for."""

        def compressed() -> torch.Tensor:
            blob = self._buffers[BLOB]
            assert blob is not None
            packed = packed_of(blob, self._parameters["values"])
            return run_conv2d(
                packed, images, bias, *geometry, self.precision, self.activation, residual
            )

        def dense(weight: torch.Tensor) -> torch.Tensor:
            y = fastest_conv2d(images, weight, bias, *geometry[1:])
            return finished(y, self.activation, residual)

        if self.execution == "compressed":
            return compressed()
        situation = (tuple(images.shape[2:]), *geometry)
        choice = known_choice(self, images, images.numel(), situation)
        if choice is not None and choice.runs == "compressed":
            return compressed()
        others = [t for t in (images, bias, residual) if t is not None]
        if not all(t.is_cpu for t in others):
            return compressed()  # which says what is wrong
        return run_fastest(self, images, images.numel(), compressed, dense, situation)
