"""Layers of several compressed weights, each of which is a module of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import nn

from tersor.nn.base import BLOB, Compressed
from tersor.nn.hooks import take_over
from tersor.nn.recomputed import dense_type_of
from tersor.nn.weight import CompressedWeight
from tersor.ops import torch_internals

# Of the names of modules that are weights: the names themselves are those of the dense tensors.
_MATRIX = "_matrix"


class CompressedMatrix(Compressed):
    """One weight of a layer that has several; the layer computes with it.

    In state dictionaries its blob stands under ``<name>_blob``, as if the layer itself had it.
    """

    def forward(self, *inputs: Any) -> torch.Tensor:
        """Refuses: the layer that has this weight runs it."""
        raise RuntimeError("a weight of a compressed layer is not a layer: call what has it")

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        own: dict[str, Any] = {}
        super()._save_to_state_dict(own, "", keep_vars)
        destination[_blob_name(prefix)] = own[BLOB]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        metadata, strict, missing, unexpected, errors = rest
        faults: list[str] = []
        lost: list[str] = []
        super()._load_from_state_dict(
            state_dict, prefix, metadata, strict, lost, unexpected, faults
        )
        missing += [name.replace(prefix + BLOB, _blob_name(prefix)) for name in lost]
        for fault in faults:
            named = fault.replace(prefix + BLOB, _blob_name(prefix))
            dense = prefix.removesuffix(f"{_MATRIX}.")
            errors.append(named.replace(f"{prefix}weight:", f"{dense}:"))


def _blob_name(prefix: str) -> str:
    """Of the module's prefix in a state dictionary."""
    return prefix.removesuffix(f"{_MATRIX}.") + BLOB.removeprefix("weight")


class CompressedGroup(nn.Module):
    """A layer of several compressed weights.

    ``layer.weight_ih_l0`` is what code that expects a dense weight sees, as ``weight`` of a
    :class:`tersor.nn.base.Compressed`; :attr:`matrices` has the compressed ones.
    """

    attributes: ClassVar[tuple[str, ...]] = ()
    # Attributes of the dense layer that this one must not have, beside its weights.
    left_behind: ClassVar[tuple[str, ...]] = ()

    def __init__(self, module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self._dense_type = dense_type_of(module)
        for name in self.attributes:
            self.__dict__[name] = getattr(module, name)
        for name, parameter in module._parameters.items():
            if name in shapes:
                dtype = torch.float32 if parameter is None else parameter.dtype
                made = CompressedMatrix(nn.Module, shapes[name], None, dtype)
                self._modules[name + _MATRIX] = made.train(module.training)
            else:
                self.register_parameter(name, parameter)
        self.train(module.training)

    @property
    def matrices(self) -> dict[str, Compressed]:
        """The weights by name."""
        return {
            name.removesuffix(_MATRIX): module
            for name, module in self._modules.items()
            if isinstance(module, CompressedMatrix)
        }

    def matrix(self, name: str) -> Compressed | None:
        """A weight; None where the layer has none of this name."""
        found = self._modules.get(name + _MATRIX)
        return found if isinstance(found, CompressedMatrix) else None

    @property
    def precision(self) -> str:
        """The class of arithmetic of all weights; those of the first where they differ."""
        return next(iter(self.matrices.values())).precision

    @precision.setter
    def precision(self, precision: str) -> None:
        """That of all weights."""
        for matrix in self.matrices.values():
            matrix.precision = precision

    def __getattr__(self, name: str) -> Any:
        found = self.__dict__.get("_modules", {}).get(name + _MATRIX)
        return super().__getattr__(name) if found is None else found.weight

    def __setattr__(self, name: str, value: Any) -> None:
        found = self.__dict__.get("_modules", {}).get(name + _MATRIX)
        if found is not None:
            found.weight = value
        else:
            super().__setattr__(name, value)

    def to_dense(self) -> nn.Module:
        """The dense layer with the same weights, dtype, hooks and mode."""
        dense = self._dense_type.__new__(self._dense_type)
        nn.Module.__init__(dense)
        weights = self.matrices
        for name in self._parameter_order():
            if name in weights:
                with torch.inference_mode(False), torch.no_grad():
                    value = CompressedWeight(weights[name]).dense().clone()
                nn.Module.register_parameter(dense, name, nn.Parameter(value))
            else:
                nn.Module.register_parameter(dense, name, self._parameters[name])
        take_over(dense, self, self.attributes, without=("_dense_type", *self._modules))
        torch_internals.own_load_hooks(dense)
        return dense

    def _parameter_order(self) -> Iterable[str]:
        """The names of the dense layer's parameters, in its order."""
        return (*self.matrices, *self._parameters)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # The weights' modules read what is under their own prefix.
        for name in self.matrices:
            for stored, own in (
                (f"{name}_blob", f"{name}{_MATRIX}.{BLOB}"),
                (name, f"{name}{_MATRIX}.weight"),
            ):
                if prefix + stored in state_dict:
                    state_dict[prefix + own] = state_dict.pop(prefix + stored)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _runs_eagerly(self, x: torch.Tensor, *others: torch.Tensor | None) -> bool:
        """Whether the kernels can be called directly, past torch's dispatcher."""
        values = [matrix.values for matrix in self.matrices.values()]
        return next(iter(self.matrices.values()))._runs_eagerly(x, *others, *values)

    def _needs_gradients(self, tensors: Iterable[torch.Tensor | None]) -> bool:
        values = [matrix.values for matrix in self.matrices.values()]
        return torch.is_grad_enabled() and any(
            t is not None and t.requires_grad
            for t in (*tensors, *self._parameters.values(), *values)
        )


def matrices_of(module: nn.Module | None) -> dict[str, Compressed]:
    """The compressed weights of a layer by their names in the dense one; none of other modules."""
    if isinstance(module, CompressedGroup):
        return module.matrices
    if isinstance(module, Compressed) and not isinstance(module, CompressedMatrix):
        return {module.weight_name: module}
    return {}


def move_to(made: Compressed | CompressedGroup, module: nn.Module) -> None:
    """Gives a compressed layer the hooks, the mode and the attributes of the dense one."""
    if isinstance(made, CompressedGroup):
        take_over(made, module, made.attributes, without=(*made.left_behind, *made.matrices))
    else:
        take_over(made, module, made.attributes, without=(made.weight_name,))
