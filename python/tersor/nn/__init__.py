"""Drop-in modules that run from compressed weights."""

from __future__ import annotations

from tersor.nn.attention import CompressedMultiheadAttention
from tersor.nn.base import Compressed
from tersor.nn.conv import CompressedConv2d
from tersor.nn.conv1d import CompressedConv1d
from tersor.nn.decoded import (
    CompressedBilinear,
    CompressedConv3d,
    CompressedConvTranspose1d,
    CompressedConvTranspose2d,
    CompressedConvTranspose3d,
)
from tersor.nn.embedding import CompressedEmbedding, CompressedEmbeddingBag
from tersor.nn.linear import CompressedLinear
from tersor.nn.registry import LayerHandler, register_layer
from tersor.nn.transposed import CompressedTransposedLinear

__all__ = [
    "Compressed",
    "CompressedBilinear",
    "CompressedConv1d",
    "CompressedConv2d",
    "CompressedConv3d",
    "CompressedConvTranspose1d",
    "CompressedConvTranspose2d",
    "CompressedConvTranspose3d",
    "CompressedEmbedding",
    "CompressedEmbeddingBag",
    "CompressedLinear",
    "CompressedMultiheadAttention",
    "CompressedTransposedLinear",
    "LayerHandler",
    "register_layer",
]
