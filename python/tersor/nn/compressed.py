"""What compressed modules share: a blob as their state, and a packed matrix made from it."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.autograd import forward_ad

from tersor import _core
from tersor.layer import SUFFIX, Layer, LayerInfo, decode_layer, inspect_layer
from tersor.nn.weight import CompressedWeight
from tersor.ops import packed_of
from tersor.quantize import decompress_layer

BLOB = "weight" + SUFFIX

_Dense = TypeVar("_Dense", bound=nn.Module)


def autocast(x: torch.Tensor) -> torch.Tensor:
    """x in the type that dense layers would compute in where ``torch.autocast`` is on."""
    if torch.is_autocast_enabled("cpu") and x.is_floating_point() and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype("cpu"))
    return x


def refuse_forward_mode(x: torch.Tensor) -> None:
    """Raises where x carries a tangent, which an operator would drop without gradients enabled."""
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None:
        raise NotImplementedError("compressed layers have no forward-mode derivative")


class Compressed(nn.Module):
    """A layer whose weight is a Huffman-coded blob.

    The blob (buffer ``weight_blob``, uint8) and the bias are its whole state. Moving the module to
    another float type moves the bias alone.
    """

    weight_blob: torch.Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        blob: npt.NDArray[np.uint8],
        bias: torch.Tensor | None,
        precision: str,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        # Also where a model is swapped in inference mode, its tensors are to outlive that mode.
        with torch.inference_mode(False):
            self.register_buffer(BLOB, torch.from_numpy(np.array(blob)))
            # Registered even where it is None, as dense layers do: forward looks it up there.
            self.register_parameter(
                "bias",
                None if bias is None else nn.Parameter(bias.detach().clone(), bias.requires_grad),
            )
        self.precision = precision
        self.shape: tuple[int, ...] = inspect_layer(blob).shape  # of the dense weight
        self._dtype = dtype

    @property
    def weight(self) -> CompressedWeight:
        """A stand-in for the dense weight, which is decoded when something computes with it."""
        return CompressedWeight(self)

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

    def _dense_like(self, dense: _Dense) -> _Dense:
        """A dense layer of the same geometry with this one's weight, bias, type and mode."""
        with torch.inference_mode(False), torch.no_grad():
            dense.to(self._dtype if self.bias is None else self.bias.dtype)
            dense.weight.copy_(self.dense_weight())  # type: ignore[operator]
            if self.bias is not None:
                dense.bias = nn.Parameter(self.bias.detach().clone(), self.bias.requires_grad)
        return dense.train(self.training)

    def _runs_eagerly(self, x: torch.Tensor, bias: torch.Tensor | None) -> bool:
        """Whether the kernel can be called directly, past torch's dispatcher."""
        return (
            type(x) is torch.Tensor
            and not torch.compiler.is_compiling()
            # A trace, a dispatch mode or a function transform sees operators alone: a direct call
            # would leave it nothing but the allocation of the result.
            and not torch.jit._trace.is_tracing()
            and torch._C._len_torch_dispatch_stack() == 0
            and torch._C._functorch.peek_interpreter_stack() is None
            and forward_ad._current_level < 0
            and not x.is_meta
            and not (
                torch.is_grad_enabled()
                and (x.requires_grad or (bias is not None and bias.requires_grad))
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
            with torch.inference_mode(False):
                self.weight_blob = torch.empty_like(blob, device="cpu")
        super()._load_from_state_dict(state_dict, prefix, *rest, **keywords)

    def extra_repr(self) -> str:
        """Shape, density and stored bytes."""
        info = self.info
        density = info.nonzeros / max(1, info.weights)
        return f"shape={info.shape}, density={density:.4f}, bytes={info.total_bytes}"
