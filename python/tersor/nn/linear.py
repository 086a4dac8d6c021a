"""Linear layers from compressed weights."""

from __future__ import annotations

import torch
from torch import nn

from tersor.config import LayerConfig
from tersor.layer import encode_layer
from tersor.nn.compressed import Compressed
from tersor.ops import run_linear
from tersor.quantize import compress_weight


class CompressedLinear(Compressed):
    """``nn.Linear`` on a compressed weight ``[out_features, in_features]``."""

    @classmethod
    def from_dense(
        cls, module: nn.Linear, settings: LayerConfig, name: str = "linear"
    ) -> CompressedLinear:
        """Compresses a dense layer; the dense one is left as it was.

        Raises:
            ValueError: the weight holds NaN or infinity; the message names the layer.
        """
        blob = encode_layer(compress_weight(module.weight, settings, name))
        return cls(blob, module.bias, settings.precision).train(module.training)

    def to_dense(self) -> nn.Linear:
        """The dense layer with the same weight."""
        rows, cols = self.shape
        dense = nn.Linear(cols, rows, bias=self.bias is not None)
        with torch.no_grad():
            dense.weight.copy_(self.dense_weight())
            if self.bias is not None:
                dense.bias.copy_(self.bias)
        return dense.train(self.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in_features]`` to ``[..., out_features]``."""
        if self._runs_eagerly(x):
            return run_linear(self.packed, x, self.bias, self.precision)
        y: torch.Tensor = torch.ops.tersor.linear(
            x, self.weight_blob, self.bias, self.shape[0], self.precision
        )
        return y
