"""Entropy-constrained scalar quantization (ECSQ).

Minimizes the mean of importance times squared error plus lambda (the penalty) times the entropy of
the codes. As in Lloyd's algorithm two steps alternate until the cost stops falling: each weight is
assigned to the codebook entry with the least error + lambda * code length, then entries move to the
weighted means of their members and code lengths follow the new frequencies.

Weights of similar importance form one group, held as a fine histogram. The members of an entry are
a contiguous run in each group, so an iteration takes prefix sums instead of a loop over weights.

Importance is a local approximation for small changes of single weights. Where it is near zero,
nothing would keep a weight from moving across the range for a shorter code, and many such moves add
up to a real loss (k-means is safe: it assigns to the nearest entry). Therefore a fraction of the
mean importance is added to every weight.

Source: Choi et al. (arXiv 1612.01543), section 4.2 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tersor._renamed import renamed_arguments
from tersor.quantizers.base import Arrays, Bytes, Floats, Masks, Quantized, entropy_of, solve

Doubles = npt.NDArray[np.float64]

_BINS = 1 << 14  # of the histogram of a group
_GROUPS = 48  # of importance, three per factor of two
_CHUNK = 1 << 20  # weights processed at once
_FLOOR = 0.1  # fraction of the mean importance added to each weight


@dataclass(frozen=True, eq=False)
class Quantiser:
    """A codebook and an assignment, with their cost.

    Attributes:
        values: codebook, float64 ``[k]``, ascending; every entry has members.
        counts: int64 ``[k]``, number of members of each entry.
        cells: uint8, the index from 0 of the entry that each histogram cell is assigned to.
        distortion: mean of importance times squared error.
        entropy: bits per code.
    """

    values: Doubles
    counts: npt.NDArray[np.int64]
    cells: Bytes
    distortion: float
    entropy: float


class Problem:
    """The weights to be quantized, binned by value and importance.

    Args:
        x: finite float32 ``[n]``, n > 0.
        h: importance, non-negative, not all zero, float32 ``[n]``; None = all equal.
        zeros: None = the codebook has no zero entry. Otherwise it has one, which never moves, and
            this is the number of already pruned weights besides ``x``. The entropy is then that of
            one code per weight, zeros included: the cost of codes and gaps together if the zeros
            are randomly placed.
    """

    def __init__(self, x: Floats, h: Floats | None, zeros: int | None = None) -> None:
        self.x, self.h, self.zeros = x, h, zeros
        self.low, self.high = float(x.min()), float(x.max())
        self.total = len(x) + (zeros or 0)
        groups = 1 if h is None else _GROUPS
        self.floor, self.top = 0.0, 1.0
        if h is not None:
            self.floor = _FLOOR * float(h.mean(dtype=np.float64))
            self.top = float(h.max()) + self.floor
        count, weight, moment = (np.zeros(groups * _BINS) for _ in range(3))
        for part, cells in self._cells():
            factor = np.ones(len(cells)) if h is None else h[part] + self.floor
            count += np.bincount(cells, minlength=len(count))
            weight += np.bincount(cells, factor, len(count))
            moment += np.bincount(cells, factor * x[part], len(count))
        self.occupied = np.flatnonzero(count)
        count, weight, moment = (a[self.occupied] for a in (count, weight, moment))
        self.position = moment / weight
        group = self.occupied // _BINS
        members = np.bincount(group, count, groups)
        mean = np.bincount(group, weight, groups) / np.maximum(1, members)
        self.group, self.importance = group, np.where(members > 0, mean, 1.0)
        self.parts = np.stack([count, weight, moment, moment * self.position])
        self.keys = self._key(group, self.position)

    def _key(self, group: npt.NDArray[np.int64], x: Doubles) -> Doubles:
        """A sort key that ascends by group, and by position within each."""
        width = max(self.high - self.low, 1e-30)
        within = np.clip((x - self.low) / width * 0.5 + 0.25, 0.0, 0.999)
        return group.astype(np.float64) + within

    def _cells(self) -> Iterator[tuple[slice, npt.NDArray[np.int64]]]:
        """The histogram cell of each weight, chunk by chunk."""
        scale = (_BINS - 1) / max(self.high - self.low, 1e-30)
        for start in range(0, len(self.x), _CHUNK):
            part = slice(start, start + _CHUNK)
            cells = ((self.x[part].astype(np.float64) - self.low) * scale).astype(np.int64)
            if self.h is not None:
                octave = np.log2((self.h[part] + self.floor) / self.top)
                level = np.maximum(np.rint(3 * octave) + _GROUPS - 1, 0)
                cells += level.astype(np.int64) * _BINS
            yield part, cells

    def codes(self, found: Quantiser) -> Bytes:
        """The index from 0 of the codebook entry of each weight: uint8 ``[n]``."""
        table = np.zeros((1 if self.h is None else _GROUPS) * _BINS, np.uint8)
        table[self.occupied] = found.cells
        codes = np.empty(len(self.x), np.uint8)
        for part, cells in self._cells():
            codes[part] = table[cells]
        return codes

    def _runs(
        self, values: Doubles, price: Doubles
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """First and end cell of each entry's run in each group: int64 ``[groups, k]`` each.

        Of two entries the higher one is cheaper above the point where their costs are equal.
        """
        i, j = values[:, None], values[None, :]
        apart = np.where(j > i, j - i, 1.0)
        level = (price[None, :] - price[:, None]) / (2 * apart)
        places = (i + j) / 2 + level / self.importance[:, None, None]
        above = np.where(j > i, places, -np.inf).max(1)
        below = np.where(j > i, places, np.inf).min(2)
        group = np.arange(len(self.importance))[:, None]
        first, end = (np.searchsorted(self.keys, self._key(group, p)) for p in (above, below))
        # Decision thresholds outside a group are clipped to its ends.
        bounds = np.searchsorted(self.group, np.arange(len(self.importance) + 1))
        first = np.clip(first, bounds[:-1, None], bounds[1:, None])
        return first, np.clip(end, first, bounds[1:, None])

    def _quantiser(self, values: Doubles, cells: Bytes) -> Quantiser:
        """Moves the entries to the means of the members that the cells assign to them."""
        k = len(values)
        count, weight, first, second = (np.bincount(cells, part, k) for part in self.parts)
        pinned = (values == 0.0) & (self.zeros is not None)
        moved = np.where((weight > 0) & ~pinned, first / np.where(weight > 0, weight, 1), values)
        error = second - 2 * moved * first + moved**2 * weight
        counts = np.rint(count).astype(np.int64) + pinned * (self.zeros or 0)
        taken = np.flatnonzero((counts > 0) | pinned)
        taken = taken[np.argsort(moved[taken], kind="stable")]  # means may change their order
        number = np.zeros(k, np.uint8)
        number[taken] = np.arange(len(taken))
        return Quantiser(
            moved[taken],
            counts[taken],
            number[cells],
            float(error.sum()) / self.total,
            entropy_of(counts),
        )

    def start(self, values: int) -> Quantiser:
        """The initial codebook: evenly spaced entries, with zero among them if it is fixed."""
        if self.zeros is None:
            width = (self.high - self.low) / values
            grid = self.low + width * (np.arange(values, dtype=np.float64) + 0.5)
        else:
            # Zero starts with a bin twice as wide as the others: otherwise the entry next to it,
            # which saves neither code nor gap, may take its members and keep them.
            side = (np.arange(values // 2, dtype=np.float64) + 1.5) / (values // 2 + 1)
            grid = np.concatenate([-side[::-1], [0.0], side]) * max(-self.low, self.high)
        return self._assign(grid, np.zeros(len(grid)))

    def _assign(self, values: Doubles, price: Doubles) -> Quantiser:
        """Assigns every weight to its cheapest entry and updates the entries."""
        first, end = self._runs(values, price)
        # Mark the first cell of each run; the mark holds until the next one.
        group, number = np.nonzero(end > first)
        marks = np.zeros(len(self.keys), np.int64)
        np.maximum.at(marks, first[group, number], group * len(values) + number)
        ahead = np.maximum.accumulate(marks) - self.group * len(values)
        cells = np.maximum(ahead, 0).astype(np.uint8)
        return self._quantiser(values, cells)

    def solve(self, values: int, penalty: float, iterations: int = 50) -> Quantiser:
        """Iterates at one lambda from the initial codebook until the cost stops falling."""
        found, best = self.start(values), np.inf
        for _ in range(iterations):
            shares = np.maximum(found.counts, 0.5) / self.total
            found = self._assign(found.values, -penalty * np.log2(shares))
            cost = found.distortion + penalty * found.entropy
            if cost > best * (1 - 1e-4):
                break
            best = cost
        return found

    def penalty_for(self, values: int, bits: float, iterations: int = 50) -> float:
        """The smallest lambda whose solution has an entropy of at most ``bits``."""
        return self._bisect(values, bits, iterations)[0]

    def solve_bits(self, values: int, bits: float, iterations: int = 50) -> Quantiser:
        """The solution with the least distortion found whose entropy is at most ``bits``."""
        _, above, below = self._bisect(values, bits, iterations)
        if above is below:
            return below
        between = self._between(above, bits)
        return between if between.distortion < below.distortion else below

    def _bisect(
        self, values: int, bits: float, iterations: int
    ) -> tuple[float, Quantiser, Quantiser]:
        """The smallest lambda that reaches ``bits``, and the solutions just above and below it.

        The two are the same object if lambda is 0.
        """
        above = self.solve(values, 0.0, iterations)
        if above.entropy <= bits:
            return 0.0, above, above
        low, high = 0.0, max(above.distortion, 1e-30)
        below = self.solve(values, high, iterations)
        while below.entropy > bits:
            low, above, high = high, below, 8 * high
            below = self.solve(values, high, iterations)
        while high > 1.01 * low:
            # Entropy falls roughly linearly with log(lambda).
            middle = (low * high) ** 0.5 if low > 1e-9 * high else high / 64
            found = self.solve(values, middle, iterations)
            if found.entropy > bits:
                low, above = middle, found
            else:
                high, below = middle, found
        return high, above, below

    def _between(self, above: Quantiser, bits: float) -> Quantiser:
        """Reaches an entropy that no lambda gives, from the solution above it.

        Between two points of the convex hull, as from two entries to one, the solution jumps with
        lambda. The cells that lose least are then moved to a more frequent entry.
        """
        shares = np.argsort(np.argsort(above.counts, kind="stable"), kind="stable")
        near = (self.position[:, None] - above.values) ** 2
        near[shares[None, :] <= shares[above.cells][:, None]] = np.inf
        other = near.argmin(1)
        own = (self.position - above.values[above.cells]) ** 2
        loss = (near.min(1) - own) * self.parts[1]
        order = np.argsort(loss / self.parts[0], kind="stable")[: int(np.isfinite(loss).sum())]
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            cells = above.cells.copy()
            cells[order[:middle]] = other[order[:middle]]
            if self._quantiser(above.values, cells).entropy > bits:
                low = middle + 1
            else:
                high = middle
        cells = above.cells.copy()
        cells[order[:high]] = other[order[:high]]
        return self._quantiser(above.values, cells)


@renamed_arguments(values="codebook_size", together="joint")
def quantize_ecsq(
    weights: Arrays,
    codebook_size: int,
    *,
    penalty: float | None = None,
    bits: float | None = None,
    prune: bool = False,
    importance: Arrays | None = None,
    kept: Masks | None = None,
    joint: bool = False,
    iterations: int = 50,
) -> dict[str, Quantized]:
    """Quantizes weights by ECSQ: least weighted squared error + penalty * entropy of the codes.

    Args:
        weights: float32 by name.
        codebook_size: maximum number of non-zero codebook entries, 1 to 255; entries without
            members are dropped.
        penalty: Lagrange multiplier lambda, in squared error per bit; or
        bits: target entropy per code; lambda is found by bisection, per codebook.
        prune: zero is an entry too, and weights are pruned where the saved bits outweigh the error.
            The entropy is then that of one code per weight, pruned or not: about the cost of codes
            and gaps together.
        importance: non-negative, names and shapes as the weights; None = all equal.
        kept: as for :func:`tersor.quantizers.kmeans.quantize_kmeans`.
        joint: fit one codebook over all layers.
        iterations: maximum number per lambda.

    Raises:
        ValueError: not exactly one of ``penalty`` and ``bits`` is given, or it is negative; or
            names, shapes or values are invalid.
    """
    if (penalty is None) == (bits is None):
        raise ValueError("give either penalty or bits")
    if min(v for v in (penalty, bits) if v is not None) < 0:
        raise ValueError("penalty and bits cannot be negative")

    def solver(x: Floats, h: Floats | None, pruned: int) -> tuple[Bytes, Floats]:
        if not len(x):
            return np.zeros(0, np.uint8), np.zeros(0, np.float32)
        problem = Problem(x, h, zeros=pruned if prune else None)
        if penalty is not None:
            found = problem.solve(codebook_size, penalty, iterations)
        else:
            assert bits is not None
            found = problem.solve_bits(codebook_size, bits, iterations)
        own = ~(prune & (found.values == 0))
        code = (np.cumsum(own) * own).astype(np.uint8)
        return code[problem.codes(found)], found.values[own].astype(np.float32)

    return solve(weights, importance, kept, joint, solver)
