"""Linear layers from compressed weights."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from tersor.config import LayerConfig
from tersor.nn.base import BLOB, Compressed, autocast, refuse_what_operators_get_wrong
from tersor.nn.execution import finished, known_choice, run_fastest
from tersor.nn.from_dense import compress_layer
from tersor.ops.forward import run_linear
from tersor.ops.packed import packed_of


class CompressedLinear(Compressed):
    """``nn.Linear`` on a compressed weight ``[out_features, in_features]``."""

    attributes: ClassVar[tuple[str, ...]] = ("in_features", "out_features")

    in_features: int
    out_features: int

    @classmethod
    def from_dense(
        cls,
        module: nn.Linear,
        settings: LayerConfig,
        name: str = "linear",
        importance: Any = None,
        activation: str = "none",
    ) -> CompressedLinear:
        """Compresses a dense layer; the dense one is left as it was.

        ``importance`` has the weight's shape, as for :func:`tersor.codec.encode.compress_weight`;
        ``activation`` is fused.

        Raises:
            ValueError: the weight holds NaN or infinity; the message names the layer.
        """
        return compress_layer(cls, module, settings, name, importance, activation)

    @classmethod
    def empty_like(cls, module: nn.Linear) -> CompressedLinear:
        """A layer of the same geometry without a weight; none is read or allocated."""
        return cls._empty(module, (module.out_features, module.in_features))

    def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """``[..., in_features]`` to ``[..., out_features]``.

        ``residual``, of the result's shape, is added before the activation.
        """
        x = autocast(input)
        # Past nn.Module's attribute look-up, which takes longer than a small layer.
        bias = self._parameters["bias"]
        blob = self._buffers[BLOB]
        assert blob is not None
        values = self._parameters["values"]
        if self._runs_eagerly(x, bias, values, residual):
            if self.execution != "compressed":
                choice = known_choice(self, x, x.numel())
                if choice is None or choice.runs == "dense":
                    return self._run_fastest(x, residual)
            packed = packed_of(blob, values)
            return run_linear(
                packed, x, bias, self.shape, self.precision, self.activation, residual
            )
        refuse_what_operators_get_wrong(
            x, weight=blob, codebook=values, bias=bias, residual=residual
        )
        y: torch.Tensor = torch.ops.tersor.linear(
            x, blob, values, bias, residual, self.shape[0], self.activation, self.precision
        )
        return y

    def _run_fastest(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        """The product by the way that is faster for a batch of this size, or asked for."""

        def compressed() -> torch.Tensor:
            packed = self.packed
            return run_linear(
                packed, x, self.bias, self.shape, self.precision, self.activation, residual
            )

        def dense(weight: torch.Tensor) -> torch.Tensor:
            y = F.linear(x, weight, self.bias)
            return finished(y, self.activation, residual)

        others = [t for t in (x, self.bias, residual) if t is not None]
        if not x.dim() or x.shape[-1] != self.shape[1] or not all(t.is_cpu for t in others):
            return compressed()  # which says what is wrong
        return run_fastest(self, x, x.numel(), compressed, dense)
