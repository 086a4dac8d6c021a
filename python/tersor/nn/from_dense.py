"""A dense layer's weight, compressed into the module that takes its place."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from tersor.codec.blob import encode_blob
from tersor.codec.encode import compress_weight
from tersor.config import LayerConfig
from tersor.nn.base import ACTIVATIONS, Compressed, blob_tensor
from tersor.nn.recomputed import plain_copy

_Layer = TypeVar("_Layer", bound=Compressed, covariant=True)


class _Type(Protocol[_Layer]):
    def empty_like(self, module: Any) -> _Layer: ...


def compress_layer(
    kind: _Type[_Layer],
    module: nn.Module,
    settings: LayerConfig,
    name: str,
    importance: Any,
    activation: str,
) -> _Layer:
    """A compressed layer from a dense one, with which it shares nothing.

    Raises:
        ValueError: the weight holds NaN or infinity, or the activation is unknown.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation '{activation}' is none of {', '.join(ACTIVATIONS)}")
    plain = plain_copy(module) or module
    made = kind.empty_like(plain)
    weight = getattr(plain, made.weight_name)
    made.set_blob(blob_tensor(encode_blob(compress_weight(weight, settings, name, importance))))
    made.precision, made.activation = settings.precision, activation
    if settings.execution != "auto":
        made.execution = settings.execution
    if made.bias is not None:
        with torch.inference_mode(False):
            bias = made.bias.detach().clone()
            made.bias = nn.Parameter(bias, made.bias.requires_grad)
    return made
