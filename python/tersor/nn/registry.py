"""How each type of layer is compressed: one handler a type, which everything else asks.

:func:`register_layer` adds a type. A subclass is handled as its base as long as it does not
override ``forward``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parameter import is_lazy

from tersor.nn.base import Compressed, reserved_name
from tersor.nn.conv import CompressedConv2d, pixels_of_padding
from tersor.nn.embedding import CompressedEmbedding, CompressedEmbeddingBag
from tersor.nn.linear import CompressedLinear
from tersor.nn.matrices import CompressedGroup
from tersor.nn.recomputed import computed_names, dense_type_of, dtype_of
from tersor.nn.recurrent import LAYERS as RECURRENT
from tersor.nn.recurrent import weight_shapes
from tersor.nn.references import replace_references
from tersor.nn.wrappers import renew_compiled
from tersor.ops.library import PATCH_ELEMENTS


class LayerHandler(ABC):
    """What tersor knows of a type of layer."""

    settings: ClassVar[str] = "linear"
    """Which settings of a :class:`tersor.Config` are for this type: ``linear``, ``conv``, …"""

    multiplies: ClassVar[bool] = True
    """Whether the weight is multiplied with inputs, whose statistics say how its errors count."""

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

    @property
    def has_samples(self) -> bool:
        """Whether :meth:`samples` is there: errors can be compensated in layers of this type."""
        return True

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

    def samples(self, module: Any, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """As the base class."""
        images = x if x.dim() == 4 else x.unsqueeze(0)
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        images = F.pad(images, pixels_of_padding(module), mode)
        columns = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        # At stride 1; fewer patches otherwise.
        each = max(1, columns * images.shape[2] * images.shape[3])
        each = each // (module.stride[0] * module.stride[1]) or 1
        for part in images.split(max(1, PATCH_ELEMENTS // each)):
            patches = F.unfold(part, module.kernel_size, module.dilation, 0, module.stride)
            grouped = patches.view(len(part), module.groups, -1, patches.shape[-1])
            yield grouped.permute(1, 0, 3, 2).flatten(1, 2)


class RecurrentHandler(LayerHandler):
    """``nn.LSTM``, ``nn.GRU``, ``nn.RNN`` and their cells, with all options."""

    def shapes(self, module: Any) -> Mapping[str, tuple[int, ...]]:
        """As the base class."""
        return weight_shapes(module)

    def empty_like(self, module: Any) -> CompressedGroup:
        """As the base class."""
        made: CompressedGroup = RECURRENT[_base_of(module)].empty_like(module)  # type: ignore[index]
        return made

    @property
    def has_samples(self) -> bool:
        """What the state's weight is multiplied with is not among the inputs of the layer."""
        return False

    def samples(self, module: Any, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """Refuses: see :attr:`has_samples`."""
        raise ValueError(f"errors in a {type(module).__name__} cannot be compensated")


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


_RECURRENT = RecurrentHandler()
_HANDLERS: dict[type[nn.Module], LayerHandler] = {
    nn.Linear: LinearHandler(),
    nn.Conv2d: Conv2dHandler(),
    nn.Embedding: EmbeddingHandler(CompressedEmbedding),
    nn.EmbeddingBag: EmbeddingHandler(CompressedEmbeddingBag),
    **dict.fromkeys(RECURRENT, _RECURRENT),
}


def register_layer(kind: type[nn.Module], handler: LayerHandler) -> None:
    """Says how a type of layer, and its subclasses that keep its ``forward``, are compressed."""
    _HANDLERS[kind] = handler


def registered() -> dict[type[nn.Module], LayerHandler]:
    """The handlers by type."""
    return dict(_HANDLERS)


def _base_of(module: nn.Module) -> type[nn.Module] | None:
    """The type with a handler that a layer is, or is a subclass of."""
    return next((kind for kind in dense_type_of(module).__mro__ if kind in _HANDLERS), None)


def handler_of(module: nn.Module) -> LayerHandler | None:
    """The handler of a layer; None where :func:`why_not` has the reason."""
    base = _base_of(module)
    if base is None or dense_type_of(module).forward is not base.forward:
        return None
    return None if "forward" in module.__dict__ else _HANDLERS[base]


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
    return handler.refusal(module)


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
    replace_references(model, {old: new for old, new in swapped.items() if new is not None})
    return model
