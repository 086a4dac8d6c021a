"""Density, shared values and code widths of all layers at once, for a size or for an accuracy.

Each layer is quantized with zero among its values (:mod:`tersor.quantizers.ecsq`), so that one
penalty sets its density, its values and their code. One price of a bit, the same for all layers,
makes the penalties: at a given size no layer could then give bytes to another and lessen the sum of
their distortions. The price is searched for, on bytes that were really encoded.

A layer's distortion is the sum of importance times squared error where importance is given (the
loss that is expected); else the squared error relative to the layer's own squares, as relative
errors of layers add up in what a network computes.

Where errors are compensated as weights are quantized (:mod:`tersor.calibration.compensation`), a
layer's distortion is relative too: to what pruning its weights one by one would cost.

Sources: Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers" (one
slope for all); Choi et al. (arXiv 1612.01543), section 3.6 (importance across layers).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tersor.codec.blob import encode_blob
from tersor.codec.encode import compress_weight
from tersor.config import LayerConfig
from tersor.pruning.magnitude import kept_by
from tersor.quantizers import ecsq

Blobs = dict[str, npt.NDArray[np.uint8]]

# Shared values beside zero to start from; a codebook costs bytes that a penalty does not see.
_VALUES = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 254)
_STEPS = 24  # of the search, at most
_CLOSE = 0.995  # of a target: good enough


@dataclass(frozen=True, eq=False)
class Item:
    """A layer to choose for.

    Attributes:
        weight: float32, any shape.
        settings: what is set already: ``kind`` and ``precision`` as they are, ``density`` and
            ``values`` as limits, ``index_bits`` and ``flat`` where they are given.
        importance: not negative, of the weight's shape; None for all layers, or for none.
    """

    weight: npt.NDArray[np.float32]
    settings: LayerConfig
    importance: npt.NDArray[np.float32] | None = None


class SearchLayer(Protocol):
    """What the search asks of a layer."""

    @property
    def name(self) -> str:
        """That its settings go by."""

    @property
    def size(self) -> int:
        """Its number of weights."""

    @property
    def whole(self) -> float:
        """The distortion where all of them are pruned."""

    def settings(self, price: float, values: int | None = None) -> LayerConfig:
        """The cheapest settings where a bit costs ``price``; of those with ``values``, if given."""


@dataclass(frozen=True)
class Compensated:
    """A layer whose errors are compensated; the price also settles how many values there are.

    Attributes:
        name: of the layer.
        size: its number of weights.
        given: settings that are set already, as those of an :class:`Item`.
        error: what pruning all weights, one by one, would cost.
    """

    name: str
    size: int
    given: LayerConfig
    error: float
    whole: float = 1.0

    def settings(self, price: float, values: int | None = None) -> LayerConfig:
        """The cheapest settings where a bit costs ``price``."""
        return dataclasses.replace(
            self.given,
            method="ecsq",
            codebook_size=self.given.codebook_size or 255,
            bits=None,
            penalty=price * self.error,
            prune=True,
        )


class WeightLayer:
    """An item with what does not depend on the price."""

    def __init__(self, name: str, item: Item) -> None:
        self.name, self.item, self.size = name, item, item.weight.size
        self.best = len(_VALUES) // 2  # of _VALUES, at the last price
        kept = kept_by(item.weight, item.settings)
        x = item.weight[kept]
        h = None if item.importance is None else item.importance[kept]
        if h is not None and not h.any():
            h = None
        self.problem = ecsq.Problem(x, h, zeros=kept.size - len(x)) if len(x) else None
        squares = x.astype(np.float64) ** 2
        if item.importance is None:
            self.scale = 1.0 / max(float((item.weight.astype(np.float64) ** 2).sum()), 1e-30)
        else:
            self.scale = 1.0
        self.whole = self.scale * float((squares if h is None else squares * h).sum())

    def settings(self, price: float, values: int | None = None) -> LayerConfig:
        """The cheapest settings where a bit costs ``price``; of those with ``values``, if given."""
        given = self.item.settings
        penalty = price / self.scale
        if values is None:
            values = self._values(penalty)
        return dataclasses.replace(
            given, method="ecsq", codebook_size=values, bits=None, penalty=penalty, prune=True
        )

    def _values(self, penalty: float) -> int:
        """The cheapest number of values to start from, those that a codebook stores paid for."""
        given = self.item.settings
        limit = given.codebook_size or 255
        problem = self.problem
        if problem is None:
            return limit
        stored = 16 if given.kind == "shared_fp16" else 32

        @functools.cache
        def cost(i: int) -> float:
            if not 0 <= i < len(_VALUES) or (i > 0 and _VALUES[i - 1] >= limit):
                return math.inf
            found = problem.solve(min(limit, _VALUES[i]), penalty)
            bits = found.entropy * problem.total + stored * len(found.values)
            return found.distortion * problem.total + penalty * bits

        # Downhill from what was best at the last price.
        while (best := min(range(self.best - 1, self.best + 2), key=cost)) != self.best:
            self.best = best
        return min(limit, _VALUES[best])


@dataclass(frozen=True)
class Step:
    """A step of the search: the price of a bit, and what came of it (bytes, or accuracy)."""

    price: float
    measured: float
    kept: bool

    def __str__(self) -> str:
        return f"price {self.price:.3g}: {self.measured:g}{'' if self.kept else ', past the limit'}"


def fit(
    items: Mapping[str, Item],
    measure: Callable[[Blobs], float],
    limit: float,
    *,
    size: bool,
    progress: Callable[[Step], None] | None = None,
) -> dict[str, LayerConfig]:
    """Settings by name, at the lowest price of a bit within a size, or the highest that an accuracy
    allows.

    Args:
        items: by name.
        measure: of the encoded weights by name: bytes of the whole file, or accuracy.
        limit, size, progress: as for :func:`search`.

    Raises:
        ValueError: as :func:`search`.
    """

    def measure_encoded(chosen: Mapping[str, LayerConfig]) -> float:
        return measure(
            {
                name: encode_blob(compress_weight(item.weight, chosen[name], name, item.importance))
                for name, item in items.items()
            }
        )

    layers = [WeightLayer(name, item) for name, item in items.items()]
    return search(layers, measure_encoded, limit, size=size, progress=progress)


def search(
    layers: Sequence[SearchLayer],
    measure: Callable[[Mapping[str, LayerConfig]], float],
    limit: float,
    *,
    size: bool,
    progress: Callable[[Step], None] | None = None,
) -> dict[str, LayerConfig]:
    """Settings by name, at the lowest price of a bit within a size, or the highest that an accuracy
    allows.

    Args:
        layers: to choose for.
        measure: of settings by name: bytes of the whole file, or accuracy.
        limit: the most bytes, or the least accuracy.
        size: whether bytes are measured.
        progress: called after each step.

    Raises:
        ValueError: no price meets the limit; the message says what the last one came to.
    """
    # What a bit costs if the whole distortion, all weights pruned, is spread over all weights.
    weights = sum(layer.size for layer in layers)
    whole = sum(layer.whole for layer in layers) / max(1, weights)
    at = math.log(1e-2 * max(whole, 1e-30))
    lowest, highest = at - math.log(1e6), at + math.log(1e5)

    def attempt(at: float, values: Mapping[str, int | None]) -> _Tried:
        chosen = {la.name: la.settings(math.exp(at), values.get(la.name)) for la in layers}
        measured = measure(chosen)
        kept = measured <= limit if size else measured >= limit
        if progress is not None:
            progress(Step(math.exp(at), measured, kept))
        return _Tried(at, measured, kept, chosen)

    # The nearest on both sides of the limit.
    good: _Tried | None = None
    bad: _Tried | None = None
    tried = attempt(at, {})
    for _ in range(_STEPS):
        good, bad = (tried, bad) if tried.kept else (good, tried)
        if size and good is not None and good.measured >= _CLOSE * limit:
            return good.chosen
        if good is not None and bad is not None and abs(good.at - bad.at) < 0.02:
            break
        if not lowest <= tried.at <= highest:  # nothing is left to gain
            break
        tried = attempt(_next(tried.at, good, bad, limit, size), {})
    if good is None:
        what = "bytes at least" if size else "is the accuracy at best"
        raise ValueError(f"no choice meets the limit of {limit:g}: {tried.measured:g} {what}")
    if size and bad is not None:
        # Sizes leap where a number of values changes. With the numbers held they do not.
        values = {name: settings.codebook_size for name, settings in bad.chosen.items()}
        low, high = bad.at, bad.at + 2.0
        for _ in range(_STEPS // 2):
            tried = attempt((low + high) / 2, values)
            low, high = (low, tried.at) if tried.kept else (tried.at, high)
            if tried.kept and tried.measured > good.measured:
                good = tried
            if good.measured >= _CLOSE * limit:
                break
    return good.chosen


@dataclass(frozen=True, eq=False)
class _Tried:
    """A price (its logarithm), and what came of it."""

    at: float
    measured: float
    kept: bool
    chosen: dict[str, LayerConfig]


def _next(at: float, good: _Tried | None, bad: _Tried | None, limit: float, size: bool) -> float:
    """Where to look next: further out until both sides are known, then between."""
    if good is None or bad is None:
        outwards = 2.0 if (good is None) == size else -2.0
        return at + outwards
    if not size:
        return (good.at + bad.at) / 2
    # The logarithm of the size is nearly straight in that of the price; aim just inside.
    goal = math.log(limit * (1 + _CLOSE) / 2)
    share = (math.log(bad.measured) - goal) / (math.log(bad.measured) - math.log(good.measured))
    return bad.at + min(0.9, max(0.1, share)) * (good.at - bad.at)
