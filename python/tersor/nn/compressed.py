"""What compressed modules share: a blob as their state, and a packed matrix made from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tersor import _core
from tersor.layer import SUFFIX, Layer, LayerInfo, decode_layer, inspect_layer
from tersor.ops import packed_of
from tersor.quantize import decompress_layer

BLOB = "weight" + SUFFIX


class Compressed(nn.Module):
    """A layer whose weight is a Huffman-coded blob.

    The blob (buffer ``weight_blob``, uint8) and the bias are its whole state. Moving the module to
    another float type moves the bias alone.
    """

    weight_blob: torch.Tensor

    def __init__(
        self, blob: npt.NDArray[np.uint8], bias: torch.Tensor | None, precision: str
    ) -> None:
        super().__init__()
        self.register_buffer(BLOB, torch.from_numpy(np.array(blob)))
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.precision = precision
        self.shape: tuple[int, ...] = inspect_layer(blob).shape  # of the dense weight

    @property
    def packed(self) -> _core.PackedMatrix:
        """The weight laid out for the kernels; made when first needed."""
        return packed_of(self.weight_blob)

    @property
    def info(self) -> LayerInfo:
        """Where the bytes of the blob go."""
        return inspect_layer(self.weight_blob.numpy())

    def layer(self) -> Layer:
        """The canonical content of the blob."""
        return decode_layer(self.weight_blob.numpy())

    def dense_weight(self) -> torch.Tensor:
        """The weight as a dense float32 tensor."""
        return torch.from_numpy(decompress_layer(self.layer()))

    def _runs_eagerly(self, x: torch.Tensor) -> bool:
        """Whether the kernel can be called directly, past torch's dispatcher."""
        return (
            type(x) is torch.Tensor
            and not torch.compiler.is_compiling()
            # A trace or a dispatch mode sees operators alone: a direct call would leave it nothing
            # but the allocation of the result.
            and not torch.jit._trace.is_tracing()
            and torch._C._len_torch_dispatch_stack() == 0
            and not (
                torch.is_grad_enabled()
                and (x.requires_grad or (self.bias is not None and self.bias.requires_grad))
            )
        )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any, **keywords: Any
    ) -> None:
        # Blobs differ in size from model to model: take the new one's before values are copied.
        blob = state_dict.get(prefix + BLOB)
        if isinstance(blob, torch.Tensor) and blob.dtype == torch.uint8:
            shape = inspect_layer(blob.cpu().numpy(), verify=True).shape
            if shape != self.shape:
                raise ValueError(f"{prefix}{BLOB}: has shape {shape}, expected {self.shape}")
            self.weight_blob = torch.empty_like(blob, device="cpu")
        super()._load_from_state_dict(state_dict, prefix, *rest, **keywords)

    def extra_repr(self) -> str:
        """Shape, density and stored bytes."""
        info = self.info
        density = info.nonzeros / max(1, info.weights)
        return f"shape={info.shape}, density={density:.4f}, bytes={info.total_bytes}"
