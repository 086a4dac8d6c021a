"""``torch.ops.tersor``: importing this registers the operators and their gradients."""

from __future__ import annotations

from tersor.ops import autograd, embedding, library, recurrent
from tersor.ops.forward import run_conv2d, run_linear
from tersor.ops.packed import packed_of

__all__ = [
    "autograd",
    "embedding",
    "library",
    "packed_of",
    "recurrent",
    "run_conv2d",
    "run_linear",
]
