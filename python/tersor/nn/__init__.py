"""Drop-in modules that run from compressed weights."""

from __future__ import annotations

from tersor.nn.base import Compressed
from tersor.nn.conv import CompressedConv2d
from tersor.nn.linear import CompressedLinear

__all__ = ["Compressed", "CompressedConv2d", "CompressedLinear"]
