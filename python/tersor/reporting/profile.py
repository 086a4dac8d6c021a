"""Where the time and the memory of a compressed model go, layer by layer."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tersor.calibration.inputs import evaluating, run
from tersor.nn.base import Compressed
from tersor.nn.layers import layers_of
from tersor.ops.decoded import held_bytes
from tersor.pipeline.compress import decompress_

_ROUNDS = 5
_SECONDS = 0.02


@dataclass(frozen=True)
class LayerProfile:
    """A compressed layer.

    Attributes:
        name: of the layer in the model.
        kind: the type of the dense layer.
        calls: how often one run of the model calls it.
        seconds: of these calls.
        dense_seconds: of the same calls of the dense layer.
        share: of the time of the whole model.
        held_bytes: of its packed forms and of a decoded weight, where it runs dense; 0 where an
            earlier layer of the profile has the same.
        dense_bytes: of the dense weight.
        stored_bytes: of its blob.
        runs: ``compressed`` or ``dense``, and why, for this input.
        precision: class of arithmetic.
    """

    name: str
    kind: str
    calls: int
    seconds: float
    dense_seconds: float
    share: float
    held_bytes: int
    dense_bytes: int
    stored_bytes: int
    runs: str
    precision: str


@dataclass(frozen=True)
class ModelProfile:
    """A compressed model, for one input.

    Attributes:
        layers: the compressed ones, in the order of the model.
        seconds: of a run of the model.
        dense_seconds: of a run of the decompressed model.
        threads: of torch.
    """

    layers: tuple[LayerProfile, ...]
    seconds: float
    dense_seconds: float
    threads: int

    @property
    def speedup(self) -> float:
        """How many times faster the model is than the dense one."""
        return self.dense_seconds / max(self.seconds, 1e-12)

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON has them."""
        return {**dataclasses.asdict(self), "speedup": self.speedup}

    def __str__(self) -> str:
        """A table; times in microseconds, sizes in KB."""
        heading = (
            *("layer", "type", "calls", "µs", "dense µs", "faster", "share"),
            *("KB held", "KB dense", "KB stored", "runs"),
        )
        rows = [heading, *(_cells(layer) for layer in self.layers), self._rest(), self._total()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(heading))]
        left = {0, 1, len(heading) - 1}
        lines = [
            "  ".join(
                cell.ljust(width) if i in left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        lines.insert(1, "-" * max(map(len, lines)))
        return "\n".join(lines)

    def _rest(self) -> tuple[str, ...]:
        seconds = self.seconds - sum(layer.seconds for layer in self.layers)
        share = f"{max(0.0, seconds) / max(self.seconds, 1e-12):.0%}"
        return ("(all else)", "", "", f"{1e6 * seconds:.1f}", "", "", share, "", "", "", "")

    def _total(self) -> tuple[str, ...]:
        sizes = [
            sum(getattr(layer, name) for layer in self.layers)
            for name in ("held_bytes", "dense_bytes", "stored_bytes")
        ]
        times = (f"{1e6 * self.seconds:.1f}", f"{1e6 * self.dense_seconds:.1f}")
        faster = f"{self.speedup:.2f}x"
        return ("(model)", "", "", *times, faster, "100%", *(f"{s / 1e3:,.1f}" for s in sizes), "")


def _cells(layer: LayerProfile) -> tuple[str, ...]:
    return (
        layer.name or "(model)",
        layer.kind,
        str(layer.calls),
        f"{1e6 * layer.seconds:.1f}",
        f"{1e6 * layer.dense_seconds:.1f}",
        f"{layer.dense_seconds / max(layer.seconds, 1e-12):.2f}x",
        f"{layer.share:.0%}",
        *(f"{size / 1e3:,.1f}" for size in (layer.held_bytes, layer.dense_bytes)),
        f"{layer.stored_bytes / 1e3:,.1f}",
        f"{layer.runs.split(' ')[0]}, {layer.precision}",
    )


@torch.no_grad()
def profile(model: nn.Module, x: Any) -> ModelProfile:
    """Times a compressed model and each of its layers for one input; ``print`` the result.

    Each layer is called again with the inputs that it gets when the model runs; of several rounds
    the shortest counts. The dense layers are timed in the same way, one at a time, and so is the
    decompressed model, a copy of which is made.

    Args:
        model: compressed or loaded; run in evaluation mode, on torch's number of threads.
        x: a batch: a tensor, a tuple of arguments, or a dict of keyword arguments.

    Raises:
        ValueError: the model does not take this input.
    """
    found = {
        module: names[0]
        for module, names in layers_of(model).items()
        if isinstance(module, Compressed)
    }
    with evaluating(model):
        calls = _recorded(model, list(found), x)
        seconds = _shortest(lambda: run(model, x))
        seen: set[int] = set()
        layers = tuple(
            _profiled(name, module, calls[module], seconds, seen) for module, name in found.items()
        )
        dense = decompress_(copy.deepcopy(model))
        dense_seconds = _shortest(lambda: run(dense, x))
    return ModelProfile(layers, seconds, dense_seconds, torch.get_num_threads())


_Call = tuple[tuple[Any, ...], dict[str, Any]]


def _recorded(model: nn.Module, layers: list[Compressed], x: Any) -> dict[nn.Module, list[_Call]]:
    """The arguments of each call of these layers in a run."""
    calls: dict[nn.Module, list[_Call]] = {layer: [] for layer in layers}

    def note(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[layer].append(copy.deepcopy((args, kwargs)))

    handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    try:
        run(model, x)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _profiled(
    name: str, layer: Compressed, calls: list[_Call], whole: float, seen: set[int]
) -> LayerProfile:
    def all_calls(module: nn.Module) -> Callable[[], None]:
        def call() -> None:
            for args, kwargs in calls:
                module(*args, **kwargs)

        return call

    before = set(layer.choices)
    seconds = _shortest(all_calls(layer)) if calls else 0.0
    dense_seconds = _shortest(all_calls(layer.to_dense().eval())) if calls else 0.0
    info = layer.info
    first = id(layer.weight_blob) not in seen
    seen.add(id(layer.weight_blob))
    choices = [str(c) for key, c in layer.choices.items() if key not in before or len(before) == 1]
    return LayerProfile(
        name=name,
        kind=layer._dense_type.__name__,
        calls=len(calls),
        seconds=seconds,
        dense_seconds=dense_seconds,
        share=seconds / max(whole, 1e-12),
        held_bytes=held_bytes(layer.weight_blob) if first else 0,
        dense_bytes=info.weights * layer.dtype.itemsize if first else 0,
        stored_bytes=info.total_bytes if first else 0,
        runs="; ".join(dict.fromkeys(choices)) or "compressed",
        precision=layer.precision,
    )


def _shortest(call: Callable[[], Any]) -> float:
    """The shortest time of a call in seconds, after one that warms it up."""
    call()
    best, spent, rounds = float("inf"), 0.0, 0
    while rounds < _ROUNDS or spent < _SECONDS:
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        best, spent, rounds = min(best, took), spent + took, rounds + 1
    return best
