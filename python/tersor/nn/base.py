"""What compressed modules share: a blob as their state, and a packed matrix made from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.autograd import forward_ad

from tersor import _core
from tersor.codec.blob import (
    SUFFIX,
    BlobInfo,
    CompressedTensor,
    decode_blob,
    encode_blob,
    inspect_blob,
)
from tersor.codec.encode import decompress_weight
from tersor.nn.weight import CompressedWeight
from tersor.ops.packed import packed_of

BLOB = "weight" + SUFFIX

# What a layer can do to its outputs, and the module that does the same.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}

# Looked up once: each takes a percent of a small layer's time to find.
_is_any_autocast_enabled = torch._C._is_any_autocast_enabled
_is_compiling = torch.compiler.is_compiling
_is_tracing = torch._C._is_tracing
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_transform = torch._C._functorch.peek_interpreter_stack

_Dense = TypeVar("_Dense", bound=nn.Module)


def autocast(x: torch.Tensor) -> torch.Tensor:
    """x in the type that dense layers would compute in where ``torch.autocast`` is on."""
    if not _is_any_autocast_enabled() or not torch.is_autocast_enabled("cpu"):
        return x
    if x.is_floating_point() and x.dtype != torch.float64:
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

    Attributes:
        activation: what is done with the outputs, fused into the kernel: ``none``, ``relu``,
            ``relu6``, ``gelu`` or ``silu``. It is no part of the state.
        values: the shared values as a parameter ``[k]`` where :meth:`train_values` made one. State
            dictionaries then hold a blob with the values of the moment.
    """

    weight_blob: torch.Tensor
    bias: nn.Parameter | None
    values: nn.Parameter | None

    def __init__(
        self,
        blob: npt.NDArray[np.uint8],
        bias: torch.Tensor | None,
        precision: str,
        dtype: torch.dtype = torch.float32,
        activation: str = "none",
    ) -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation '{activation}' is none of {', '.join(ACTIVATIONS)}")
        super().__init__()
        # Also where a model is swapped in inference mode, its tensors are to outlive that mode.
        with torch.inference_mode(False):
            self.register_buffer(BLOB, torch.from_numpy(np.array(blob)))
            # Registered even where it is None, as dense layers do: forward looks it up there.
            self.register_parameter(
                "bias",
                None if bias is None else nn.Parameter(bias.detach().clone(), bias.requires_grad),
            )
            self.register_parameter("values", None)
        self.precision = precision
        self.activation = activation
        self.shape: tuple[int, ...] = inspect_blob(blob).shape  # of the dense weight
        self._dtype = dtype

    @property
    def weight(self) -> CompressedWeight:
        """A stand-in for the dense weight, which is decoded when something computes with it."""
        return CompressedWeight(self)

    @property
    def packed(self) -> _core.PackedMatrix:
        """The weight laid out for the kernels; made when first needed."""
        return packed_of(self.weight_blob, self.values)

    @property
    def info(self) -> BlobInfo:
        """Where the bytes of the blob go."""
        return inspect_blob(self.weight_blob.numpy())

    def layer(self) -> CompressedTensor:
        """The canonical content of the blob, with the values of the moment."""
        layer = decode_blob(self.weight_blob.numpy())
        if self.values is None:
            return layer
        return replace(layer, values=self.values.detach().float().numpy().copy())

    def train_values(self) -> nn.Parameter:
        """Makes the shared values a parameter, whose gradient is summed over the weights.

        Returns:
            The parameter, float32 ``[k]``; the same one when it is there already.

        Raises:
            ValueError: the weights share no values.
        """
        if self.values is None:
            layer = self.layer()
            if not layer.shared:
                raise ValueError(f"a layer of kind {layer.kind} has no shared values to train")
            self.values = nn.Parameter(torch.from_numpy(layer.values.copy()))
        return self.values

    def fold_values(self) -> None:
        """Puts trained values into the blob; the parameter goes."""
        if self.values is not None:
            blob = self._blob_of_the_moment()
            self.values = None
            self.weight_blob = blob

    def _blob_of_the_moment(self) -> torch.Tensor:
        with torch.inference_mode(False):
            return torch.from_numpy(encode_blob(self.layer()))

    def dense_weight(self) -> torch.Tensor:
        """The weight as a dense float32 tensor."""
        return torch.from_numpy(decompress_weight(self.layer()))

    def _dense_like(self, dense: _Dense) -> _Dense:
        """A dense layer of the same geometry with this one's weight, bias, type and mode."""
        with torch.inference_mode(False), torch.no_grad():
            dense.to(self._dtype if self.bias is None else self.bias.dtype)
            dense.weight.copy_(self.dense_weight())  # type: ignore[operator]
            if self.bias is not None:
                dense.bias = nn.Parameter(self.bias.detach().clone(), self.bias.requires_grad)
        return dense.train(self.training)

    def _dense_activated(self, dense: nn.Module) -> nn.Module:
        """A dense layer followed by this one's activation, where it has one."""
        if self.activation == "none":
            return dense
        both = nn.Sequential(dense, ACTIVATIONS[self.activation]())
        return both.train(self.training)

    def _runs_eagerly(self, x: torch.Tensor, *others: torch.Tensor | None) -> bool:
        """Whether the kernel can be called directly, past torch's dispatcher."""
        return (
            type(x) is torch.Tensor
            and not _is_compiling()
            # A trace, a dispatch mode or a function transform sees operators alone: a direct call
            # would leave it nothing but the allocation of the result.
            and not _is_tracing()
            and _dispatch_modes() == 0
            and _function_transform() is None
            and forward_ad._current_level < 0
            and not x.is_meta
            and not (
                torch.is_grad_enabled()
                and (x.requires_grad or any(t is not None and t.requires_grad for t in others))
            )
        )

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if destination.pop(prefix + "values", None) is not None:
            destination[prefix + BLOB] = self._blob_of_the_moment()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any, **keywords: Any
    ) -> None:
        # Blobs differ in size from model to model: take the new one's before values are copied.
        blob = state_dict.get(prefix + BLOB)
        if isinstance(blob, torch.Tensor) and blob.dtype == torch.uint8:
            shape = inspect_blob(blob.cpu().numpy(), verify=True).shape
            if shape != self.shape:
                raise ValueError(f"{prefix}{BLOB}: has shape {shape}, expected {self.shape}")
            with torch.inference_mode(False):
                self.weight_blob = torch.empty_like(blob, device="cpu")
        values, self.values = self.values, None
        super()._load_from_state_dict(state_dict, prefix, *rest, **keywords)
        if values is not None:
            trained = self.train_values()
            if trained.shape == values.shape:  # optimizers know the old parameter
                with torch.no_grad():
                    self.values = values
                    values.copy_(trained)

    def extra_repr(self) -> str:
        """Shape, density and stored bytes."""
        info = self.info
        density = info.nonzeros / max(1, info.weights)
        return f"shape={info.shape}, density={density:.4f}, bytes={info.total_bytes}"
