"""Drop-in modules that run from compressed weights."""

from __future__ import annotations

from tersor.nn.base import Compressed
from tersor.nn.conv import CompressedConv2d
from tersor.nn.embedding import CompressedEmbedding, CompressedEmbeddingBag
from tersor.nn.linear import CompressedLinear
from tersor.nn.registry import LayerHandler, register_layer

__all__ = [
    "Compressed",
    "CompressedConv2d",
    "CompressedEmbedding",
    "CompressedEmbeddingBag",
    "CompressedLinear",
    "LayerHandler",
    "register_layer",
]
