"""Drop-in modules that run from compressed weights."""

from __future__ import annotations

from tersor.nn.base import Compressed
from tersor.nn.conv import CompressedConv2d
from tersor.nn.linear import CompressedLinear
from tersor.nn.registry import LayerHandler, register_layer

__all__ = ["Compressed", "CompressedConv2d", "CompressedLinear", "LayerHandler", "register_layer"]
