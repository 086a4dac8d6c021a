"""Old names, kept for one release: each gives the new one and a DeprecationWarning."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

# Modules of tersor as they were named up to version 0.1, and the modules that hold their content.
MODULES: dict[str, tuple[str, ...]] = {
    "budget": ("search.rate_distortion",),
    "checks": ("_validation",),
    "checkpoint": ("io.checkpoint", "io.load"),
    "compress": ("pipeline.compress", "pipeline.select", "nn.registry"),
    "container": ("io.container",),
    "conv": ("kernels.conv",),
    "csr": ("codec.csr",),
    "ecsq": ("quantizers.ecsq",),
    "fuse": ("nn.fuse",),
    "hessian": ("calibration.sensitivity",),
    "huffman": ("codec.huffman",),
    "isa": ("kernels.isa",),
    "kmeans": ("quantizers.kmeans",),
    "layer": ("codec.blob", "kernels.spmm"),
    "methods": ("quantizers.base", "quantizers.kmeans", "quantizers.uniform", "quantizers.ecsq"),
    "moments": ("calibration.statistics",),
    "nn.compressed": ("nn.base",),
    "obs": (
        "calibration.compensation",
        "calibration.sweeps",
        "calibration.rates",
        "calibration.quantize",
    ),
    "prune": ("pruning.masks", "pruning.schedules"),
    "quantize": ("codec.encode", "pruning.magnitude", "quantizers.choose", "_validation"),
    "share": ("training.codebooks", "training.assignments"),
    "shards": ("io.shards",),
    "spmm": ("kernels.spmm",),
    "state": ("io.state_dict", "io.aliases"),
    "units": ("pruning.neurons",),
}

# Functions, classes and constants: old name -> new name, in the modules above.
SYMBOLS = {
    "Layer": "CompressedTensor",
    "budget.Layer": "SearchLayer",
    "LayerInfo": "BlobInfo",
    "Moments": "InputStatistics",
    "MAX_VALUES": "MAX_CODEBOOK_SIZE",
    "MovingCodes": "TrainedAssignments",
    "Sharing": "Quantized",
    "bits_of": "entropy_of_settings",
    "decode_layer": "decode_blob",
    "decompress_layer": "decompress_weight",
    "encode_layer": "encode_blob",
    "encode_shared": "encode_smallest",
    "input_moments": "input_statistics",
    "inspect_layer": "inspect_blob",
    "is_layer": "is_blob",
    "pack_layer": "pack_blob",
    "remove_dead_units_": "remove_dead_neurons_",
    "share_by": "quantize_by",
    "share_ecsq": "quantize_ecsq",
    "share_kmeans": "quantize_kmeans",
    "share_uniform": "quantize_uniform",
    "share_weight": "quantize_weight",
    "sort_units_": "sort_neurons_",
    "state.ALIASES": "KEY",
    "values_of": "codebook_size_of",
}


def _warn(old: str, new: str, depth: int) -> None:
    warnings.warn(f"{old} is now {new}; the old name will go", DeprecationWarning, depth + 1)


class _OldModule(types.ModuleType):
    """A module that looks names up in those that took its place."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        old = self.__name__.removeprefix("tersor.")
        for new in MODULES[old]:
            module = importlib.import_module(f"tersor.{new}")
            for candidate in (name, SYMBOLS.get(f"{old}.{name}", SYMBOLS.get(name, ""))):
                if candidate and hasattr(module, candidate):
                    _warn(f"{self.__name__}.{name}", f"tersor.{new}.{candidate}", 2)
                    return getattr(module, candidate)
        raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Serves ``import tersor.<old name>``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != "tersor" or name not in MODULES:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _OldModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def install() -> None:
    """Makes the old modules importable, once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def renamed_names(module: str, **names: str) -> Callable[[str], Any]:
    """The function ``__getattr__`` of a module that stays, for old names of its content.

    Args:
        module: its name.
        names: by the old name, the new one.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        _warn(f"{module}.{name}", f"{module}.{names[name]}", 2)
        return getattr(sys.modules[module], names[name])

    return get


_P = ParamSpec("_P")
_T = TypeVar("_T")


def renamed_arguments(**names: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Lets a function take old names of its arguments.

    Args:
        names: by the old name, the new one.
    """

    def decorate(function: Callable[_P, _T]) -> Callable[_P, _T]:
        @functools.wraps(function)
        def with_old_names(*arguments: _P.args, **keywords: _P.kwargs) -> _T:
            for old in names.keys() & keywords.keys():
                _warn(f"{function.__name__}({old}=)", f"{names[old]}=", 2)
                keywords[names[old]] = keywords.pop(old)
            return function(*arguments, **keywords)

        return with_old_names

    return decorate


_Class = TypeVar("_Class", bound=type)


def renamed_fields(**names: str) -> Callable[[_Class], _Class]:
    """Lets a dataclass take and give old names of its fields.

    Args:
        names: by the old name, the new one.
    """

    def decorate(cls: _Class) -> _Class:
        init: Callable[..., None] = cls.__init__  # type: ignore[misc]
        fields = {field.name for field in dataclasses.fields(cls)}
        assert fields.issuperset(names.values())

        @functools.wraps(init)
        def with_old_names(self: Any, *arguments: Any, **keywords: Any) -> None:
            for old, new in names.items():
                if old in keywords:
                    _warn(f"{cls.__name__}({old}=)", f"{new}=", 2)
                    keywords[new] = keywords.pop(old)
            init(self, *arguments, **keywords)

        cls.__init__ = with_old_names  # type: ignore[misc]
        for old, new in names.items():

            def get(self: Any, old: str = old, new: str = new) -> Any:
                _warn(f"{cls.__name__}.{old}", new, 2)
                return getattr(self, new)

            setattr(cls, old, property(get, doc=f"Deprecated: ``{new}``."))
        return cls

    return decorate


def moved_fields(**places: str) -> Callable[[_Class], _Class]:
    """Lets a dataclass say where settings went that it had once.

    Args:
        places: by the name of a field, what is to be written instead.
    """

    def decorate(cls: _Class) -> _Class:
        init: Callable[..., None] = cls.__init__  # type: ignore[misc]

        @functools.wraps(init)
        def refusing(self: Any, *arguments: Any, **keywords: Any) -> None:
            for name, place in places.items():
                if name in keywords:
                    raise TypeError(f"{cls.__name__} no longer has {name}: use {place}")
            init(self, *arguments, **keywords)

        cls.__init__ = refusing  # type: ignore[misc]
        for name, place in places.items():

            def get(self: Any, name: str = name, place: str = place) -> Any:
                raise AttributeError(f"{cls.__name__} no longer has {name}: use {place}")

            setattr(cls, name, property(get, doc=f"Moved: ``{place}``."))
        return cls

    return decorate
