"""``Conv1D`` of ``transformers``: a linear layer whose weight is kept transposed (GPT-2)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from tersor.config import LayerConfig
from tersor.nn.base import Compressed, autocast, refuse_what_operators_get_wrong
from tersor.nn.execution import finished, run_fastest
from tersor.nn.from_dense import compress_layer
from tersor.ops.forward import run_linear
from tersor.ops.packed import transposed_of


class CompressedTransposedLinear(Compressed):
    """``transformers.pytorch_utils.Conv1D`` on a compressed weight ``[nx, nf]``.

    The product runs from the transposed matrix, packed like any other. Where operators are
    recorded (graphs, gradients), the weight is decoded.
    """

    attributes: ClassVar[tuple[str, ...]] = ("nf", "nx")

    nf: int
    nx: int

    @classmethod
    def from_dense(
        cls, module: nn.Module, settings: LayerConfig, name: str = "conv1d", importance: Any = None
    ) -> CompressedTransposedLinear:
        """Compresses a dense layer; the dense one is left as it was.

        Raises:
            ValueError: the weight holds NaN or infinity; the message names the layer.
        """
        return compress_layer(cls, module, settings, name, importance, "none")

    @classmethod
    def empty_like(cls, module: Any) -> CompressedTransposedLinear:
        """A layer of the same geometry without a weight; none is read or allocated."""
        return cls._empty(module, (module.nx, module.nf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., nx]`` to ``[..., nf]``."""
        x = autocast(x)
        if not self._runs_eagerly(x, self.bias, self.values):
            refuse_what_operators_get_wrong(
                x, weight=self.weight_blob, codebook=self.values, bias=self.bias
            )
            weight = self._decoded().to(x.dtype).mT
            return finished(F.linear(x, weight, self.bias), self.activation)

        def compressed() -> torch.Tensor:
            packed = transposed_of(self.weight_blob, self.values)
            shape = (self.nf, self.nx)
            return run_linear(packed, x, self.bias, shape, self.precision, self.activation)

        def dense(weight: torch.Tensor) -> torch.Tensor:
            return finished(F.linear(x, weight.mT, self.bias), self.activation)

        on_cpu = x.is_cpu and (self.bias is None or self.bias.is_cpu)
        if self.execution == "compressed" or not on_cpu or x.shape[-1:] != (self.nx,):
            return compressed()
        return run_fastest(self, x, x.numel(), compressed, dense)
