"""Rate-distortion search: density, codebook size and codes per layer, for a size or an accuracy.

Each layer is quantized by ECSQ with zero as an entry (:mod:`tersor.quantizers.ecsq`), so a single
penalty determines its density, codebook and codes. The penalties of all layers follow from one
Lagrange multiplier lambda: at equal rate-distortion slopes no transfer of bytes between layers
lowers the total distortion at that size. Lambda is searched for, on bytes that are really encoded.

With importance, the distortion of a layer is the sum of importance times squared error (the
expected increase of the loss). Without it, it is the squared error relative to the sum of squares
of the layer's weights, since relative errors of layers add up through a network.

With error compensation the layers are weighed as :mod:`tersor.calibration.allocation` has it.

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

# Initial codebook sizes to choose from; a codebook costs bytes that the penalty does not count.
_VALUES = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 254)
_STEPS = 24  # maximum number of search steps
_CLOSE = 0.995  # fraction of the target size at which the search stops


@dataclass(frozen=True, eq=False)
class Item:
    """A layer whose settings are searched for.

    Attributes:
        weight: float32, any shape.
        settings: constraints: ``kind`` and ``precision`` are kept, ``density`` and
            ``codebook_size`` are upper limits, ``index_bits`` and ``flat`` are kept where given.
        importance: non-negative, of the weight's shape; given for all layers or for none.
    """

    weight: npt.NDArray[np.float32]
    settings: LayerConfig
    importance: npt.NDArray[np.float32] | None = None


class SearchLayer(Protocol):
    """What the search needs of a layer."""

    @property
    def name(self) -> str:
        """Layer name."""

    @property
    def size(self) -> int:
        """Number of weights."""

    @property
    def whole(self) -> float:
        """Distortion when every weight is pruned."""

    def settings(self, price: float, values: int | None = None) -> LayerConfig:
        """The settings of least cost at lambda = ``price``, with ``values`` entries if given."""


@dataclass(frozen=True)
class Compensated:
    """A layer quantized with error compensation; its codebook size follows from lambda as well.

    Attributes:
        name: layer name.
        size: number of weights.
        given: constraints, as the settings of an :class:`Item`.
        scale: its penalty at lambda = 1.
        whole: distortion when every weight is pruned.
    """

    name: str
    size: int
    given: LayerConfig
    scale: float
    whole: float

    def settings(self, price: float, values: int | None = None) -> LayerConfig:
        """The settings of least cost at lambda = ``price``."""
        return dataclasses.replace(
            self.given,
            method="ecsq",
            codebook_size=self.given.codebook_size or 255,
            bits=None,
            penalty=price * self.scale,
            prune=True,
        )


class WeightLayer:
    """An item with everything that does not depend on lambda."""

    def __init__(self, name: str, item: Item) -> None:
        self.name, self.item, self.size = name, item, item.weight.size
        self.best = len(_VALUES) // 2  # index into _VALUES, the best at the last lambda
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
        """The settings of least cost at lambda = ``price``, with ``values`` entries if given."""
        given = self.item.settings
        penalty = price / self.scale
        if values is None:
            values = self._codebook_size(penalty)
        return dataclasses.replace(
            given, method="ecsq", codebook_size=values, bits=None, penalty=penalty, prune=True
        )

    def _codebook_size(self, penalty: float) -> int:
        """The initial codebook size of least cost, the bits of the stored codebook included."""
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

        # Descend from the best size at the last lambda.
        while (best := min(range(self.best - 1, self.best + 2), key=cost)) != self.best:
            self.best = best
        return min(limit, _VALUES[best])


@dataclass(frozen=True)
class Step:
    """A step of the search: lambda (``price``) and the measured bytes or accuracy."""

    price: float
    measured: float
    kept: bool

    def __str__(self) -> str:
        return (
            f"lambda {self.price:.3g}: {self.measured:g}{'' if self.kept else ', past the limit'}"
        )


def fit(
    items: Mapping[str, Item],
    measure: Callable[[Blobs], float],
    limit: float,
    *,
    size: bool,
    progress: Callable[[Step], None] | None = None,
) -> dict[str, LayerConfig]:
    """Searches settings by name: the smallest lambda that meets a size, or the largest that meets
    an accuracy.

    Args:
        items: by name.
        measure: from the encoded weights by name to the bytes of the file, or the accuracy.
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
    goal: str | None = None,
) -> dict[str, LayerConfig]:
    """Searches settings by name: the smallest lambda that meets a size, or the largest that meets
    an accuracy.

    Args:
        layers: whose settings are searched for.
        measure: from settings by name to the bytes of the file, or the accuracy.
        limit: maximum bytes, or minimum accuracy.
        size: True if bytes are measured, False for accuracy.
        progress: called after each step.
        goal: what messages call the limit of a size; ``target_bytes`` by default.

    Raises:
        ValueError: no lambda meets the limit; the message has the closest measurement.
    """
    # Start from the mean distortion per weight when every weight is pruned.
    weights = sum(layer.size for layer in layers)
    mean = sum(layer.whole for layer in layers) / max(1, weights)
    at = math.log(1e-2 * max(mean, 1e-30))
    lowest, highest = at - math.log(1e6), at + math.log(1e5)

    def attempt(at: float, values: Mapping[str, int | None]) -> _Tried:
        chosen = {each.name: each.settings(math.exp(at), values.get(each.name)) for each in layers}
        measured = measure(chosen)
        kept = measured <= limit if size else measured >= limit
        if progress is not None:
            progress(Step(math.exp(at), measured, kept))
        return _Tried(at, measured, kept, chosen)

    # The closest attempts on both sides of the limit.
    good: _Tried | None = None
    bad: _Tried | None = None
    tried = attempt(at, {})
    for _ in range(_STEPS):
        good, bad = (tried, bad) if tried.kept else (good, tried)
        if size and good is not None and good.measured >= _CLOSE * limit:
            return good.chosen
        if good is not None and bad is not None and abs(good.at - bad.at) < 0.02:
            break
        if not lowest <= tried.at <= highest:  # nothing left to gain
            break
        tried = attempt(_next(tried.at, good, bad, limit, size), {})
    if good is None:
        if size:
            raise ValueError(
                f"cannot reach {goal or f'target_bytes={limit:.0f}'}: "
                f"the smallest configuration takes {tried.measured:,.0f} bytes"
            )
        raise ValueError(
            f"cannot reach an accuracy of {limit:g}: the best configuration has {tried.measured:g}"
        )
    if size and bad is not None:
        # Sizes jump where a codebook size changes; with fixed codebook sizes they do not.
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
    """An attempt at ``at`` = log(lambda), and its outcome."""

    at: float
    measured: float
    kept: bool
    chosen: dict[str, LayerConfig]


def _next(at: float, good: _Tried | None, bad: _Tried | None, limit: float, size: bool) -> float:
    """The next log(lambda): step outwards until the limit is bracketed, then interpolate."""
    if good is None or bad is None:
        outwards = 2.0 if (good is None) == size else -2.0
        return at + outwards
    if not size:
        return (good.at + bad.at) / 2
    # log(size) is nearly linear in log(lambda); aim just inside the limit.
    goal = math.log(limit * (1 + _CLOSE) / 2)
    share = (math.log(bad.measured) - goal) / (math.log(bad.measured) - math.log(good.measured))
    return bad.at + min(0.9, max(0.1, share)) * (good.at - bad.at)
