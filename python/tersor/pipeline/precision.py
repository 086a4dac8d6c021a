"""The fastest class of arithmetic for each layer within an error of the model's output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tersor.calibration.inputs import evaluating, read_batches, run
from tersor.config import PRECISIONS
from tersor.nn.base import Compressed
from tersor.nn.fold import float_tensors
from tersor.nn.layers import layers_of

# From the fastest to the most exact.
_FASTEST_FIRST = tuple(reversed(PRECISIONS))


@dataclass(frozen=True)
class PrecisionChoice:
    """What :func:`calibrate_precision` chose.

    Attributes:
        layers: the class of each compressed layer, by its name.
        error: of the output with these, relative to that with ``highest``.
        tolerance: what was allowed.
    """

    layers: Mapping[str, str]
    error: float
    tolerance: float

    def __str__(self) -> str:
        lines = [f"{name}: {precision}" for name, precision in self.layers.items()]
        return "\n".join([*lines, f"error of the output: {self.error:.2e} of {self.tolerance:.2e}"])


@torch.no_grad()
def calibrate_precision(
    model: nn.Module, inputs: Iterable[Any], tolerance: float
) -> PrecisionChoice:
    """Gives each compressed layer the fastest class of arithmetic, in place.

    Errors of single layers, whose squares are taken to add up, say which layers need a more exact
    class; the error of them all together is then measured, and has the last word.

    Args:
        model: compressed or loaded; its layers' ``precision`` is set.
        inputs: batches, each a tensor, a tuple of arguments or a dict of keyword arguments.
        tolerance: the largest Frobenius norm of the output's change relative to that of the output
            with all layers in ``highest``: 0.01 is 1 %.

    Raises:
        ValueError: the tolerance is not positive, the model has no compressed layers, or there are
            no inputs.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, not {tolerance}")
    batches = read_batches(inputs)
    layers = {
        names[0]: module
        for module, names in layers_of(model).items()
        if isinstance(module, Compressed)
    }
    if not layers:
        raise ValueError("the model has no compressed layers: call tersor.compress_ first")
    with evaluating(model), _from_compressed(layers.values()):
        measured = _Measured(model, layers, batches)
        squares = {
            name: [measured.error({name: each}) ** 2 for each in _FASTEST_FIRST] for name in layers
        }
        places = dict.fromkeys(layers, 0)
        while True:
            _make_exact(places, squares, tolerance**2)
            chosen = {name: _FASTEST_FIRST[place] for name, place in places.items()}
            error = measured.error(chosen)
            if error <= tolerance or not _step(places, squares):
                break
    for name, layer in layers.items():
        layer.precision = chosen[name]
    return PrecisionChoice(chosen, error, tolerance)


def _make_exact(places: dict[str, int], squares: Mapping[str, list[float]], limit: float) -> None:
    """Makes the layers with the largest errors more exact until all errors add up to the limit."""
    while sum(squares[name][place] for name, place in places.items()) > limit:
        if not _step(places, squares):
            return


def _step(places: dict[str, int], squares: Mapping[str, list[float]]) -> bool:
    """One class more for the layer whose error counts most; False where all are exact."""
    left = [name for name, place in places.items() if place + 1 < len(_FASTEST_FIRST)]
    if not left:
        return False
    places[max(left, key=lambda name: squares[name][places[name]])] += 1
    return True


@contextmanager
def _from_compressed(layers: Iterable[Compressed]) -> Iterator[None]:
    """Layers that run compressed meanwhile, and get back how they were set."""
    before = [(layer, layer.__dict__.get("execution"), layer.precision) for layer in layers]
    try:
        for layer, _, _ in before:
            layer.execution = "compressed"
        yield
    finally:
        for layer, execution, precision in before:
            layer.precision = precision
            if execution is None:
                del layer.execution
            else:
                layer.execution = execution


class _Measured:
    """Errors of the output against that with all layers in ``highest``."""

    def __init__(
        self, model: nn.Module, layers: Mapping[str, Compressed], batches: list[Any]
    ) -> None:
        self._model, self._layers, self._batches = model, layers, batches
        self._expected = self._outputs({})

    def _outputs(self, precisions: Mapping[str, str]) -> list[torch.Tensor]:
        for name, layer in self._layers.items():
            layer.precision = precisions.get(name, "highest")
        return float_tensors([run(self._model, batch) for batch in self._batches])

    def error(self, precisions: Mapping[str, str]) -> float:
        """Of layers in these classes; the others in ``highest``."""
        found = self._outputs(precisions)
        pairs = list(zip(found, self._expected, strict=True))
        difference = sum(float((a - b).square().sum()) for a, b in pairs)
        whole = sum(float(b.square().sum()) for _, b in pairs)
        return float((difference / max(whole, 1e-60)) ** 0.5)
