"""Linear layers from compressed weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tersor.codec.blob import encode_blob
from tersor.codec.encode import compress_weight
from tersor.config import LayerConfig
from tersor.nn.base import BLOB, Compressed, autocast, refuse_forward_mode
from tersor.ops.forward import run_linear
from tersor.ops.packed import packed_of


class CompressedLinear(Compressed):
    """``nn.Linear`` on a compressed weight ``[out_features, in_features]``."""

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
        blob = encode_blob(compress_weight(module.weight, settings, name, importance))
        made = cls(blob, module.bias, settings.precision, module.weight.dtype, activation)
        return made.train(module.training)

    @property
    def in_features(self) -> int:
        """Columns of the weight."""
        return self.shape[1]

    @property
    def out_features(self) -> int:
        """Rows of the weight."""
        return self.shape[0]

    def to_dense(self) -> nn.Module:
        """The ``nn.Linear`` with the same weight; with an activation, an ``nn.Sequential``."""
        rows, cols = self.shape
        dense = self._dense_like(nn.Linear(cols, rows, bias=self.bias is not None))
        return self._dense_activated(dense)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """``[..., in_features]`` to ``[..., out_features]``.

        ``residual``, of the result's shape, is added before the activation.
        """
        x = autocast(x)
        # Past nn.Module's attribute look-up, which takes longer than a small layer.
        bias = self._parameters["bias"]
        blob = self._buffers[BLOB]
        assert blob is not None
        values = self._parameters["values"]
        if self._runs_eagerly(x, bias, values, residual):
            packed = packed_of(blob, values)
            return run_linear(
                packed, x, bias, self.shape, self.precision, self.activation, residual
            )
        refuse_forward_mode(x)
        y: torch.Tensor = torch.ops.tersor.linear(
            x, blob, values, bias, residual, self.shape[0], self.activation, self.precision
        )
        return y
