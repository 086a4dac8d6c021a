"""How each type of layer is compressed: one handler a type, which everything else asks.

:func:`register_layer` adds a type. A subclass is handled as its base as long as it does not
override ``forward``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parameter import is_lazy

from tersor.nn.attention import CompressedMultiheadAttention, refusal_of
from tersor.nn.base import Compressed, reserved_name
from tersor.nn.conv import CompressedConv2d, pixels_of_padding
from tersor.nn.conv1d import CompressedConv1d, samples_of_padding
from tersor.nn.decoded import (
    CompressedBilinear,
    CompressedConv3d,
    CompressedConvTranspose1d,
    CompressedConvTranspose2d,
    CompressedConvTranspose3d,
    Decoded,
)
from tersor.nn.embedding import CompressedEmbedding, CompressedEmbeddingBag
from tersor.nn.linear import CompressedLinear
from tersor.nn.matrices import CompressedGroup
from tersor.nn.recomputed import computed_names, dense_type_of, dtype_of
from tersor.nn.recurrent import LAYERS as RECURRENT
from tersor.nn.recurrent import weight_shapes
from tersor.nn.references import replace_references
from tersor.nn.transposed import CompressedTransposedLinear
from tersor.nn.weight import CompressedWeight
from tersor.nn.wrappers import renew_compiled
from tersor.ops.library import PATCH_ELEMENTS


class LayerHandler(ABC):
    """What tersor knows of a type of layer."""

    settings: str = "linear"
    """Which settings of a :class:`tersor.Config` are for this type: ``linear``, ``conv``, …"""

    multiplies: ClassVar[bool] = True
    """Whether :meth:`samples` has what the weight is multiplied with: its statistics say how
    errors of the weight count, and errors can be compensated."""

    transposed: ClassVar[bool] = False
    """Whether inputs are multiplied with the weight's columns instead of its rows."""

    @abstractmethod
    def shapes(self, module: Any) -> Mapping[str, tuple[int, ...]]:
        """The shape of each weight by name (``weight``), from the layer's attributes alone.

        The first dimension makes the rows of the matrix, the others its columns.
        """

    @abstractmethod
    def empty_like(self, module: Any) -> Compressed | CompressedGroup:
        """The compressed layer of the same geometry, without weights; none is read or allocated.

        It shares the biases with the dense layer. Where there are several weights, it is a
        :class:`tersor.nn.matrices.CompressedGroup`.
        """

    @abstractmethod
    def samples(self, module: Any, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """What the rows of the weight are multiplied with, for the inputs of one call.

        Yields:
            float ``[groups, samples, columns]``, part by part in the order of the inputs: samples
            are rows of inputs, or patches of a convolution.
        """

    def groups(self, module: Any) -> int:
        """Into how many parts rows and inputs fall that have nothing to do with each other."""
        return 1

    def refusal(self, module: Any) -> str | None:
        """Why a layer of this type cannot run compressed, for its own options; None = it can."""
        return None


class LinearHandler(LayerHandler):
    """``nn.Linear``, and what is computed as one."""

    def shapes(self, module: Any) -> Mapping[str, tuple[int, ...]]:
        """As the base class."""
        return {"weight": (module.out_features, module.in_features)}

    def empty_like(self, module: Any) -> Compressed:
        """As the base class."""
        return CompressedLinear.empty_like(module)

    def samples(self, module: Any, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """As the base class."""
        yield x.reshape(1, -1, x.shape[-1])


class Conv2dHandler(LayerHandler):
    """``nn.Conv2d``, of any padding mode, stride, dilation and number of groups."""

    settings = "conv"

    def shapes(self, module: Any) -> Mapping[str, tuple[int, ...]]:
        """As the base class."""
        channels = module.in_channels // module.groups
        return {"weight": (module.out_channels, channels, *module.kernel_size)}

    def empty_like(self, module: Any) -> Compressed:
        """As the base class."""
        return CompressedConv2d.empty_like(module)

    def groups(self, module: Any) -> int:
        """As the base class."""
        return int(module.groups)

    def samples(
        self, module: Any, x: torch.Tensor, every: tuple[int, ...] = (1, 1)
    ) -> Iterator[torch.Tensor]:
        """As the base class.

        Args:
            module: a dense layer.
            x: input of one of its calls.
            every: n for each axis, of whose patches every n-th is taken, from the middle of n on.
        """
        images = x if x.dim() == 4 else x.unsqueeze(0)
        padding = pixels_of_padding(module)
        if any(padding):
            mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
            images = F.pad(images, padding, mode)
        first = [s * ((n - 1) // 2) for s, n in zip(module.stride, every, strict=True)]
        images = images[:, :, first[0] :, first[1] :]
        stride = tuple(s * n for s, n in zip(module.stride, every, strict=True))
        columns = module.in_channels * math.prod(module.kernel_size)
        # At stride 1; fewer patches otherwise.
        each = max(1, columns * images.shape[2] * images.shape[3])
        each = each // math.prod(stride) or 1
        for part in images.split(max(1, PATCH_ELEMENTS // each)):
            if tuple(module.kernel_size) == (1, 1):  # no copy
                patches = part[:, :, :: stride[0], :: stride[1]].flatten(2)
            else:
                patches = F.unfold(part, module.kernel_size, module.dilation, 0, stride)
            grouped = patches.unflatten(1, (module.groups, -1))
            yield grouped.permute(1, 0, 3, 2).flatten(1, 2)


class RecurrentHandler(LayerHandler):
    """``nn.LSTM``, ``nn.GRU``, ``nn.RNN`` and their cells, with all options."""

    multiplies = False

    def shapes(self, module: Any) -> Mapping[str, tuple[int, ...]]:
        """As the base class."""
        return weight_shapes(module)

    def empty_like(self, module: Any) -> CompressedGroup:
        """As the base class."""
        made: CompressedGroup = RECURRENT[_base_of(module)].empty_like(module)  # type: ignore[index]
        return made

    def samples(self, module: Any, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """None: what the state's weight is multiplied with is not among the inputs of the layer."""
        return iter(())


class EmbeddingHandler(LayerHandler):
    """``nn.Embedding`` and ``nn.EmbeddingBag``, whose rows are looked up."""

    settings = "embedding"
    multiplies = False

    def __init__(self, compressed: type[CompressedEmbedding] | type[CompressedEmbeddingBag]):
        self._compressed = compressed

    def shapes(self, module: Any) -> Mapping[str, tuple[int, ...]]:
        """As the base class."""
        return {"weight": (module.num_embeddings, module.embedding_dim)}

    def empty_like(self, module: Any) -> Compressed:
        """As the base class."""
        return self._compressed.empty_like(module)

    def samples(self, module: Any, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """None: nothing is multiplied."""
        return iter(())

    def refusal(self, module: Any) -> str | None:
        """As the base class."""
        if module.max_norm is not None:
            return (
                "max_norm rescales rows of the weight at each look-up: rescale them once, and set "
                "max_norm to None"
            )
        return None


class AttentionHandler(LayerHandler):
    """``nn.MultiheadAttention`` with one joint projection; ``out_proj`` is a layer of its own."""

    multiplies = False

    def shapes(self, module: Any) -> Mapping[str, tuple[int, ...]]:
        """As the base class."""
        return {"in_proj_weight": (3 * module.embed_dim, module.embed_dim)}

    def empty_like(self, module: Any) -> Compressed:
        """As the base class."""
        return CompressedMultiheadAttention.empty_like(module)

    def samples(self, module: Any, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """None: queries, keys and values may be projections of different inputs."""
        return iter(())

    def refusal(self, module: Any) -> str | None:
        """As the base class."""
        return refusal_of(module)


class Conv1dHandler(Conv2dHandler):
    """``nn.Conv1d``, of any padding mode, stride, dilation and number of groups."""

    def empty_like(self, module: Any) -> Compressed:
        """As the base class."""
        return CompressedConv1d.empty_like(module)

    def samples(
        self, module: Any, x: torch.Tensor, every: tuple[int, ...] = (1,)
    ) -> Iterator[torch.Tensor]:
        """As the base class of this."""
        signals = x if x.dim() == 3 else x.unsqueeze(0)
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        images = F.pad(signals, samples_of_padding(module), mode).unsqueeze(2)
        images = images[..., module.stride[0] * ((every[0] - 1) // 2) :]
        stride = (1, module.stride[0] * every[0])
        each = max(1, module.in_channels * module.kernel_size[0] * images.shape[3])
        for part in images.split(max(1, PATCH_ELEMENTS // each)):
            patches = F.unfold(part, (1, *module.kernel_size), (1, *module.dilation), 0, stride)
            grouped = patches.view(len(part), module.groups, -1, patches.shape[-1])
            yield grouped.permute(1, 0, 3, 2).flatten(1, 2)


class DecodedHandler(LayerHandler):
    """Layers whose weight is decoded before it is used; their inputs are not looked at."""

    multiplies = False

    def __init__(self, compressed: type[Decoded], settings: str = "conv") -> None:
        self._compressed = compressed
        self.settings = settings

    def shapes(self, module: Any) -> Mapping[str, tuple[int, ...]]:
        """As the base class."""
        return {"weight": self._compressed.shape_of(module)}

    def empty_like(self, module: Any) -> Compressed:
        """As the base class."""
        return self._compressed.empty_like(module)

    def samples(self, module: Any, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """None."""
        return iter(())


class TransposedLinearHandler(LayerHandler):
    """``Conv1D`` of ``transformers``: a linear layer with a transposed weight."""

    transposed = True
    multiplies = False

    def shapes(self, module: Any) -> Mapping[str, tuple[int, ...]]:
        """As the base class."""
        return {"weight": (module.nx, module.nf)}

    def empty_like(self, module: Any) -> Compressed:
        """As the base class."""
        return CompressedTransposedLinear.empty_like(module)

    def samples(self, module: Any, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """None: the columns of the weight are multiplied with inputs, and not its rows."""
        return iter(())


_RECURRENT = RecurrentHandler()
_HANDLERS: dict[type[nn.Module], LayerHandler] = {
    nn.Linear: LinearHandler(),
    nn.Conv2d: Conv2dHandler(),
    nn.MultiheadAttention: AttentionHandler(),
    nn.Conv1d: Conv1dHandler(),
    nn.Conv3d: DecodedHandler(CompressedConv3d),
    nn.ConvTranspose1d: DecodedHandler(CompressedConvTranspose1d),
    nn.ConvTranspose2d: DecodedHandler(CompressedConvTranspose2d),
    nn.ConvTranspose3d: DecodedHandler(CompressedConvTranspose3d),
    nn.Bilinear: DecodedHandler(CompressedBilinear, "linear"),
    nn.Embedding: EmbeddingHandler(CompressedEmbedding),
    nn.EmbeddingBag: EmbeddingHandler(CompressedEmbeddingBag),
    **dict.fromkeys(RECURRENT, _RECURRENT),
}

# Types of packages that are not imported here, by their full names.
_NAMED: dict[str, LayerHandler] = {
    "transformers.pytorch_utils.Conv1D": TransposedLinearHandler(),
}


def register_layer(kind: type[nn.Module], handler: LayerHandler) -> None:
    """Says how a type of layer, and its subclasses that keep its ``forward``, are compressed."""
    _HANDLERS[kind] = handler


def registered() -> dict[type[nn.Module], LayerHandler]:
    """The handlers by type."""
    return dict(_HANDLERS)


def _base_of(module: nn.Module) -> type[nn.Module] | None:
    """The type with a handler that a layer is, or is a subclass of."""
    return next((kind for kind in dense_type_of(module).__mro__ if _own_handler(kind)), None)


def _own_handler(kind: type) -> LayerHandler | None:
    return _HANDLERS.get(kind) or _NAMED.get(f"{kind.__module__}.{kind.__qualname__}")


def handler_of(module: nn.Module) -> LayerHandler | None:
    """The handler of a layer; None where :func:`why_not` has the reason."""
    base = _base_of(module)
    if base is None or dense_type_of(module).forward is not base.forward:
        return None
    return None if "forward" in module.__dict__ else _own_handler(base)


def why_not(module: nn.Module) -> str | None:
    """Why a dense layer cannot run compressed, in words; None = it can.

    Weights are not read, so that the answer is the same on the meta device.
    """
    kind, base, handler = dense_type_of(module), _base_of(module), handler_of(module)
    if base is None:
        return f"{kind.__name__} layers are not supported"
    if handler is None:
        if "forward" in module.__dict__:
            return f"the forward of this {kind.__name__} was replaced"
        return f"{kind.__name__} overrides the forward of {base.__name__}"
    if (name := reserved_name(module)) is not None:
        return f"its attribute '{name}' means something else in a compressed layer"
    computed = computed_names(module)
    bias = getattr(module, "bias", None)
    # Of recurrent layers it says whether there are biases.
    if "bias" not in {*module._parameters, *computed} and not isinstance(bias, (bool, type(None))):
        return "bias is computed in a way that is not known"
    if (refusal := handler.refusal(module)) is not None:
        return refusal
    for name, shape in handler.shapes(module).items():
        weight = module._parameters.get(name)
        # An attribute of the class, such as a property, comes before the parameter.
        if name not in computed and (weight is None or hasattr(kind, name)):
            if getattr(module, name, None) is None:
                return f"{name} is missing"
            return f"{name} is computed in a way that is not known"
        if weight is not None and is_lazy(weight):
            return f"{name} is not initialized: run the model once"
        dtype = dtype_of(module) if weight is None else weight.dtype
        if not dtype.is_floating_point:
            return f"{name} is {str(dtype).removeprefix('torch.')}, not float"
        if 0 in shape:
            return f"{name} is empty"
    return None


def swap_modules(
    model: nn.Module, replacement: Callable[[nn.Module, str], nn.Module | None]
) -> nn.Module:
    """Replaces modules in place; one that is used in several places is replaced once, in all.

    Places are also those beside torch's registry, such as plain lists.
    """
    swapped: dict[nn.Module, nn.Module | None] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module not in swapped:
            swapped[module] = replacement(module, name)
        new = swapped[module]
        if new is None:
            continue
        if name == "":
            return new
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, new)
        renew_compiled(model.get_submodule(parent))
    made = {old: new for old, new in swapped.items() if new is not None}
    replace_references(model, made, _weights_of(made))
    return model


def _weights_of(swaps: Mapping[nn.Module, nn.Module]) -> Callable[[torch.Tensor], torch.Tensor]:
    """What takes the place of the weight of a layer that was swapped, where a list holds it.

    That of a compressed layer is its stand-in, for which the dense one comes back.
    """
    dense: dict[int, Compressed] = {}
    layers: dict[Compressed, nn.Parameter] = {}
    for old, new in swaps.items():
        if isinstance(new, Compressed) and not isinstance(old, Compressed):
            dense[id(old._parameters.get(new.weight_name))] = new
        elif isinstance(old, Compressed) and not isinstance(new, Compressed):
            inner = new if old.activation == "none" else new.get_submodule("0")
            weight = inner._parameters.get(old.weight_name)
            if weight is not None:
                layers[old] = weight

    def replacement(tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, CompressedWeight):
            return layers.get(tensor.layer, tensor)
        found = dense.get(id(tensor)) if isinstance(tensor, nn.Parameter) else None
        return tensor if found is None else CompressedWeight(found)

    return replacement
