"""What compressed modules share: a blob as their state, and a packed matrix made from it."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.autograd import forward_ad

from tersor import _core
from tersor.codec.blob import (
    SUFFIX,
    BlobInfo,
    CompressedTensor,
    inspect_blob,
)
from tersor.codec.encode import decompress_weight
from tersor.nn.execution import Choice
from tersor.nn.hooks import lift_call_hooks, take_over
from tersor.nn.recomputed import dense_type_of, dtype_of
from tersor.nn.weight import CompressedWeight
from tersor.ops import torch_internals
from tersor.ops.decoded import content_of, encoded
from tersor.ops.packed import NO_DATA, packed_of, stored

if TYPE_CHECKING:
    from typing_extensions import Self

BLOB = "weight" + SUFFIX
_EXTRA_STATE = "_extra_state"  # as torch names it in state dictionaries

# What a compressed layer has beside what the dense one has.
_OWN = (
    "shape",
    "dtype",
    "precision",
    "activation",
    "execution",
    "choices",
    "relative_error",
    "_dense_type",
    "_dense_requires_grad",
    BLOB,
    "values",
)

# Every layer there is, by its id: how tied ones find each other.
_LAYERS: weakref.WeakValueDictionary[int, Compressed] = weakref.WeakValueDictionary()

# What a layer can do to its outputs, and the module that does the same.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def autocast(x: torch.Tensor) -> torch.Tensor:
    """x in the type that dense layers would compute in where ``torch.autocast`` is on."""
    if not torch_internals.is_any_autocast_enabled() or not torch.is_autocast_enabled("cpu"):
        return x
    if x.is_floating_point() and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype("cpu"))
    return x


def reserved_name(module: nn.Module) -> str | None:
    """The name of an attribute that somebody gave a dense layer and compressed ones use."""
    tables = (module.__dict__, module._parameters, module._buffers, module._modules)
    reserved = {*_OWN, *(set(dir(Compressed)) - set(dir(nn.Module)))} - {"weight", "bias"}
    return next((name for table in tables for name in table if name in reserved), None)


def refuse_what_operators_get_wrong(x: torch.Tensor, **operands: torch.Tensor | None) -> None:
    """Raises before an operator is called that would answer with something else.

    Args:
        x: the input.
        operands: the other tensors, by what messages call them.

    Raises:
        NotImplementedError: x carries a tangent, which would be dropped without gradients enabled.
        RuntimeError: the layer is on the meta device and x is not: the result would be memory that
            nobody wrote.
        ValueError: a tensor is on a device that has no kernels.
    """
    if torch_internals.forward_mode() and forward_ad.unpack_dual(x).tangent is not None:
        raise NotImplementedError("compressed layers have no forward-mode derivative")
    if x.is_meta:
        return
    for name, tensor in {"input": x, **operands}.items():
        if tensor is None or tensor.is_cpu:
            continue
        if tensor.is_meta and name != "residual":
            raise RuntimeError(NO_DATA)
        raise ValueError(f"compressed layers run on the CPU; the {name} is on {tensor.device}")


class Compressed(nn.Module):
    """A layer whose weight is a Huffman-coded blob.

    The blob (buffer ``weight_blob``, uint8) and the bias are its whole state. Without a blob yet
    (:meth:`empty_like`) the buffer is empty.

    Tied layers share the blob, which is one tensor, and a trained codebook belongs to it: they all
    have the same parameter in ``values``.

    Attributes:
        shape: of the dense weight.
        dtype: of the dense weight; follows ``.to()``.
        precision: class of arithmetic: ``highest``, ``high``, ``medium`` or ``low``.
        execution: ``auto`` (what is faster), ``compressed`` or ``dense`` (from the weight decoded
            once, which then stays in memory): :mod:`tersor.nn.execution`.
        choices: what was decided so far, for batches of which size.
        activation: what is done with the outputs, fused into the kernel: ``none``, ``relu``,
            ``relu6``, ``gelu`` or ``silu``.
        values: the codebook as a parameter ``[k]`` where :meth:`train_values` made one. State
            dictionaries then hold a blob with the current codebook. Assigning it does so in all
            layers that share the blob.
        relative_error: Frobenius norm of the weight's error over that of the dense weight that it
            was made from; None where that is not known.
    """

    # The attributes that the dense layer has, and this one too.
    attributes: ClassVar[tuple[str, ...]] = ()

    # What the dense layer calls its weight. The state has the blob under this name and ``_blob``.
    weight_name: ClassVar[str] = "weight"
    # Whether the dense layer knows a bias at all.
    has_bias: ClassVar[bool] = True

    execution: str = "auto"
    choices: dict[Any, Choice]

    weight_blob: torch.Tensor
    bias: nn.Parameter | None
    values: nn.Parameter | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Copies and pickles come this way too."""
        made = super().__new__(cls)
        _LAYERS[id(made)] = made
        return made

    def __init__(
        self,
        dense_type: type[nn.Module],
        shape: tuple[int, ...],
        bias: nn.Parameter | None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        # Also where a model is swapped in inference mode, its tensors are to outlive that mode.
        with torch.inference_mode(False):
            self.register_buffer(self.blob_name, torch.empty(0, dtype=torch.uint8, device="cpu"))
        # Registered even where it is None, as dense layers do: forward looks it up there.
        self.register_parameter("bias", bias)
        self.register_parameter("values", None)
        self.shape = shape
        self.dtype = dtype
        self.precision = "high"
        self.activation = "none"
        self.choices = {}
        self.relative_error: float | None = None
        self._dense_type = dense_type
        self._dense_requires_grad = True

    @classmethod
    def _empty(cls, module: nn.Module, shape: tuple[int, ...]) -> Self:
        """A layer with a dense one's geometry, bias and mode, and no weight."""
        bias = module._parameters.get("bias")
        made = cls(dense_type_of(module), shape, bias, dtype_of(module))
        weight = module._parameters.get(cls.weight_name)
        made._dense_requires_grad = weight is None or weight.requires_grad
        for name in cls.attributes:
            made.__dict__[name] = getattr(module, name)
        return made.train(module.training)

    @property
    def blob_name(self) -> str:
        """The name of the blob in the state."""
        return self.weight_name + SUFFIX

    @property
    def weight(self) -> torch.Tensor:
        """A stand-in for the dense weight, which is decoded when something computes with it.

        A :class:`CompressedWeight`. Where the codebook is trained, and in a graph that is compiled
        or exported, the result of an operator that decodes: gradients reach the codebook, and a
        graph drops the operator where only the shape or the dtype was asked for.
        """
        if self.values is not None or torch.compiler.is_compiling():
            return self._decoded()
        return CompressedWeight(self)

    def _decoded(self) -> torch.Tensor:
        """The dense weight as the result of an operator, which gradients of the codebook pass."""
        decoded: torch.Tensor = torch.ops.tersor.decode(
            self.weight_blob, self.values, list(self.shape), self.dtype
        )
        return decoded

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            self._set_weight(value)
        elif name == "values" and (value is None or isinstance(value, nn.Parameter)):
            for layer in self.tied():
                layer.register_parameter(name, value)
                layer.choices = {}
        else:
            super().__setattr__(name, value)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As ``nn.Module``; refuses a dense weight."""
        if name == "weight":
            self._set_weight(param)
        super().register_parameter(name, param)

    def _set_weight(self, value: Any) -> None:
        """Ties this weight to that of another compressed layer; refuses dense ones.

        Raises:
            RuntimeError: the value is a dense tensor, or of another shape.
        """
        if isinstance(value, CompressedWeight) and value.layer.shape == self.shape:
            self._share(value.layer.weight_blob)
            return
        raise RuntimeError(
            f"the weight of a {type(self).__name__} is compressed and cannot be replaced by a "
            f"{type(value).__name__} of shape {list(getattr(value, 'shape', []))}: call "
            "tersor.decompress_(model) before weights are assigned or tied, and compress again"
        )

    def set_blob(self, blob: torch.Tensor) -> None:
        """Takes a blob as the weight; the tensor itself, so that tied layers can share it.

        A trained codebook stays with the blob that it was made from: afterwards :attr:`values` is
        that of the layers which have the new blob already, or None.

        Raises:
            FormatError: it is malformed.
            ValueError: it is of another shape than the weight.
        """
        shape = inspect_blob(blob.numpy()).shape
        if shape != self.shape:
            raise ValueError(f"the blob has shape {list(shape)}, the weight {list(self.shape)}")
        self._share(blob)

    def _share(self, blob: torch.Tensor) -> None:
        """Takes a blob, and the trained codebook of the layers that have it already."""
        others = _layers_of(blob)
        self._buffers[self.blob_name] = blob
        self._parameters["values"] = others[0].values if others else None
        self.choices = {}

    @staticmethod
    def bytes_of_all_dense() -> int:
        """What the dense weights of all layers that are in use would take."""
        layers = [layer for reference in _LAYERS.valuerefs() if (layer := reference()) is not None]
        return sum(math.prod(layer.shape) * layer.dtype.itemsize for layer in layers)

    def tied(self) -> list[Compressed]:
        """The layers that share the blob, wherever they are in use; this one among them."""
        return _layers_of(self._buffers.get(self.blob_name)) or [self]

    @property
    def packed(self) -> _core.PackedMatrix:
        """The weight packed for the kernels; made when first needed."""
        return packed_of(self.weight_blob, self.values)

    @property
    def info(self) -> BlobInfo:
        """Where the bytes of the blob go."""
        return inspect_blob(stored(self.weight_blob))

    def layer(self) -> CompressedTensor:
        """The decoded content of the blob, with the current codebook."""
        return content_of(self.weight_blob, self.values)

    def train_values(self) -> nn.Parameter:
        """Makes the codebook a parameter, whose gradient is summed over the weights.

        Layers that share the blob get the same parameter.

        Returns:
            The parameter, float32 ``[k]``; the same one when it is there already.

        Raises:
            ValueError: the weights share no codebook.
        """
        if self.values is None:
            layer = self.layer()
            if not layer.shared:
                raise ValueError(f"a layer of kind {layer.kind} has no codebook to train")
            self.values = nn.Parameter(torch.from_numpy(layer.values.copy()))
        return self.values

    def fold_values(self) -> None:
        """Puts a trained codebook into the blob that layers share; the parameter goes."""
        if self.values is not None:
            blob = encoded(self.weight_blob, self.values)
            tied = self.tied()
            self.values = None
            for layer in tied:
                layer.weight_blob = blob

    def dense_weight(self) -> torch.Tensor:
        """The weight as a dense float32 tensor on the CPU."""
        return torch.from_numpy(decompress_weight(self.layer()))

    def to_dense(self) -> nn.Module:
        """The dense layer with the same weight, dtype, hooks and mode.

        Where an activation is fused, an ``nn.Sequential`` of the layer and the activation.
        """
        dense = self._dense_type.__new__(self._dense_type)
        nn.Module.__init__(dense)
        with torch.inference_mode(False), torch.no_grad():
            weight = CompressedWeight(self).dense().clone()
        dense.register_parameter(self.weight_name, nn.Parameter(weight, self._dense_requires_grad))
        if self.has_bias:
            dense.register_parameter("bias", self.bias)
        take_over(dense, self, self.attributes, without=(*_OWN, self.blob_name))
        torch_internals.own_load_hooks(dense)
        if self.activation == "none":
            return dense
        both = nn.Sequential(dense, ACTIVATIONS[self.activation]()).train(self.training)
        lift_call_hooks(both, dense)
        return both

    def _runs_eagerly(self, x: torch.Tensor, *others: torch.Tensor | None) -> bool:
        """Whether the kernel can be called directly, past torch's dispatcher."""
        return (
            type(x) is torch.Tensor
            and not torch.compiler.is_compiling()
            # A trace, a profile, a dispatch mode or a function transform sees operators alone: a
            # direct call would leave it nothing but the allocation of the result.
            and not torch_internals.is_tracing()
            and not torch_internals.profiling()
            and torch_internals.dispatch_modes() == 0
            and torch_internals.function_transform() is None
            and not torch_internals.forward_mode()
            and not x.is_meta
            and not (
                torch.is_grad_enabled()
                and (x.requires_grad or any(t is not None and t.requires_grad for t in others))
            )
        )

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Moves the bias and the codebook; of the blob only the device changes."""
        blob = self._buffers.pop(self.blob_name)
        assert blob is not None
        try:
            super()._apply(fn, recurse)
            self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
            self.choices = {}
            moved = fn(blob)
        except BaseException:
            self._buffers[self.blob_name] = blob
            raise
        if blob.is_meta and not moved.is_meta:  # Module.to_empty()
            moved = moved.new_empty(0, dtype=torch.uint8)
        if moved.dtype != torch.uint8:  # Module.type() converts buffers of every dtype
            moved = blob.to(moved.device)
        # In place where torch can: tied layers go on sharing the tensor.
        if moved is not blob and not torch_internals.share_data(blob, moved):
            blob = moved
        self._buffers[self.blob_name] = blob
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if destination.pop(prefix + "values", None) is not None:
            assert self.values is not None
            destination[prefix + self.blob_name] = encoded(self.weight_blob, self.values)
        kind = self._dense_type
        if kind.get_extra_state is not nn.Module.get_extra_state:
            destination[prefix + _EXTRA_STATE] = kind.get_extra_state(self)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        torch_internals.own_load_hooks(self)
        key = prefix + self.blob_name
        blob = state_dict.get(key)
        values, tied = self.values, self.tied()
        if (problem := self._misfit(blob)) is not None:
            error_msgs.append(f"{key}: {problem}")
            # The rest is loaded all the same, so that all that is wrong is listed at once.
            state_dict = {**state_dict, key: self.weight_blob}
        elif isinstance(blob, torch.Tensor):
            # Blobs differ in size from model to model: make room before values are copied. In
            # place, so that tied layers go on sharing the tensor; where the state's own tensor
            # is assigned, an earlier tied layer may have it already.
            with torch.inference_mode(self.weight_blob.is_inference()), torch.no_grad():
                room = torch.empty_like(blob, device=self.weight_blob.device)
                if local_metadata.get("assign_to_params_buffers", False):
                    self._buffers[self.blob_name] = room
                else:
                    self.weight_blob.set_(room)  # type: ignore[call-overload]
        self.values = None
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )
        for layer in tied:  # a state that is assigned has replaced the tensor
            layer._buffers[layer.blob_name] = self.weight_blob
            layer.choices = {}
        self._load_extra_state(state_dict, prefix, strict, missing_keys, unexpected_keys)
        if strict and blob is None and prefix + self.weight_name in state_dict:
            # One sentence instead of a name that is missing and one that is unexpected.
            missing_keys.remove(key)
            if prefix + self.weight_name in unexpected_keys:
                unexpected_keys.remove(prefix + self.weight_name)
            error_msgs.append(
                f"{prefix}{self.weight_name}: a dense weight cannot be loaded into a "
                f"{type(self).__name__}: load it into the dense model (tersor.decompress_ gives it "
                "back) and compress that"
            )
        if problem is not None or blob is None:
            self.values = values
        elif values is not None:
            trained = self.train_values()
            if trained.shape == values.shape:  # optimizers know the old parameter
                with torch.no_grad():
                    self.values = values
                    values.copy_(trained)

    def _load_extra_state(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
    ) -> None:
        """What torch does for classes that have an extra state, as the dense type may."""
        key, kind = prefix + _EXTRA_STATE, self._dense_type
        if kind.set_extra_state is nn.Module.set_extra_state:
            return
        if key in unexpected_keys:
            unexpected_keys.remove(key)
        if key in state_dict:
            kind.set_extra_state(self, state_dict[key])
        elif strict:
            missing_keys.append(key)

    def _misfit(self, blob: Any) -> str | None:
        """Why a tensor cannot be the blob of this layer."""
        if blob is None:
            return None
        if not isinstance(blob, torch.Tensor) or blob.dtype != torch.uint8:
            return f"not a blob, which is a uint8 tensor, but {getattr(blob, 'dtype', type(blob))}"
        try:
            info = inspect_blob(stored(blob), verify=True)
        except (_core.FormatError, RuntimeError) as error:
            return str(error)
        if info.shape != self.shape:
            return f"has shape {list(info.shape)}, expected {list(self.shape)}"
        if self.values is not None and not info.kind.startswith("shared"):
            return f"holds weights of kind {info.kind}, and this layer trains a codebook"
        return None

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, whose hooks are to get them."""
        torch_internals.own_load_hooks(self)
        return {**self.__dict__, "choices": {}}

    def extra_repr(self) -> str:
        """Shape, density and stored bytes."""
        shape = f"shape={tuple(self.shape)}"
        if self.weight_blob.is_meta or not self.weight_blob.numel():
            where = "on meta" if self.weight_blob.is_meta else "empty"
            return f"{shape}, {where}"
        try:
            info = self.info
        except _core.FormatError:  # memory of Module.to_empty()
            return f"{shape}, malformed"
        density = info.nonzeros / max(1, info.weights)
        device = "" if self.weight_blob.is_cpu else f", device={self.weight_blob.device}"
        text = f"{shape}, density={density:.4f}, bytes={info.total_bytes}{device}"
        runs = "; ".join(dict.fromkeys(map(str, self.choices.values())))
        return f"{text}, runs {runs}" if runs else text


def _layers_of(blob: torch.Tensor | None) -> list[Compressed]:
    """The layers whose weight is this tensor."""
    layers = [reference() for reference in _LAYERS.valuerefs()]
    return [
        layer
        for layer in layers
        if layer is not None
        and blob is not None
        and layer.__dict__.get("_buffers", {}).get(layer.blob_name) is blob
    ]


def blob_tensor(blob: np.ndarray[Any, np.dtype[np.uint8]]) -> torch.Tensor:
    """A blob as a tensor that outlives inference mode; the memory is shared."""
    with torch.inference_mode(False):
        return torch.from_numpy(blob)
