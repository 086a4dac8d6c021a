"""Entropy-constrained scalar quantisation: shared values whose codes a prefix coder makes short.

Minimised is the mean of importance times squared error, plus the penalty times the entropy of the
codes. A number takes the value with the least cost, its own error plus the price of the code; then
values move to the means of their members and prices follow how often a code occurs, until nothing
improves.

Numbers of like importance stand in one group, in a fine histogram. A value's members are a run of
each group, so that a step takes prefix sums and no loop over numbers.

Importance comes from a model of single, small changes. Where it says that a number hardly matters,
nothing would keep that number from going to the far end for a shorter code, and many such changes
do matter (k-means is safe: its numbers go to the nearest value). So a part of the mean importance
is added to each.

Source: Choi et al. (arXiv 1612.01543), section 4.2 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tersor.quantizers.base import Arrays, Bytes, Floats, Masks, Quantized, entropy_of, solve

Doubles = npt.NDArray[np.float64]

_BINS = 1 << 14  # of the histogram of a group
_GROUPS = 48  # of importance, three to a factor of two
_CHUNK = 1 << 20  # numbers looked at together
_FLOOR = 0.1  # of the mean importance


@dataclass(frozen=True, eq=False)
class Quantiser:
    """A solution.

    Attributes:
        values: float64 ``[k]``, ascending; each has members.
        counts: int64 ``[k]``, the members of each value.
        cells: uint8, the number of the value, from 0, that each cell of the histogram takes.
        distortion: mean of importance times squared error.
        entropy: bits for a code.
    """

    values: Doubles
    counts: npt.NDArray[np.int64]
    cells: Bytes
    distortion: float
    entropy: float


class Problem:
    """Numbers that are to share values.

    Args:
        x: finite float32 ``[n]``, n > 0.
        h: importance, not negative, not all zero, float32 ``[n]``; None = all alike.
        zeros: None, or with the value zero among the values, and never moved: so many numbers
            besides ``x`` that take it in any case. The entropy is then that of a code for each
            number, the zeros among them: what codes and gaps cost together where zeros lie at
            random.
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
            matters = np.ones(len(cells)) if h is None else h[part] + self.floor
            count += np.bincount(cells, minlength=len(count))
            weight += np.bincount(cells, matters, len(count))
            moment += np.bincount(cells, matters * x[part], len(count))
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
        """Ascends through the groups, and through the positions of each."""
        width = max(self.high - self.low, 1e-30)
        within = np.clip((x - self.low) / width * 0.5 + 0.25, 0.0, 0.999)
        return group.astype(np.float64) + within

    def _cells(self) -> Iterator[tuple[slice, npt.NDArray[np.int64]]]:
        """The cell of the histogram that each number falls into, chunk by chunk."""
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
        """The number of the value, from 0, that each number takes: uint8 ``[n]``."""
        table = np.zeros((1 if self.h is None else _GROUPS) * _BINS, np.uint8)
        table[self.occupied] = found.cells
        codes = np.empty(len(self.x), np.uint8)
        for part, cells in self._cells():
            codes[part] = table[cells]
        return codes

    def _runs(
        self, values: Doubles, price: Doubles
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """First cell and end of the run that each value takes of each group: ``[groups, k]``.

        Above the place where it costs as much as a lower one, a value is the better of the two.
        """
        i, j = values[:, None], values[None, :]
        apart = np.where(j > i, j - i, 1.0)
        level = (price[None, :] - price[:, None]) / (2 * apart)
        places = (i + j) / 2 + level / self.importance[:, None, None]
        above = np.where(j > i, places, -np.inf).max(1)
        below = np.where(j > i, places, np.inf).min(2)
        group = np.arange(len(self.importance))[:, None]
        first, end = (np.searchsorted(self.keys, self._key(group, p)) for p in (above, below))
        # The ends of a group, which the keys of far places pass by.
        bounds = np.searchsorted(self.group, np.arange(len(self.importance) + 1))
        first = np.clip(first, bounds[:-1, None], bounds[1:, None])
        return first, np.clip(end, first, bounds[1:, None])

    def _quantiser(self, values: Doubles, cells: Bytes) -> Quantiser:
        """Values moved to the means of the members that the cells give them."""
        k = len(values)
        count, weight, first, second = (np.bincount(cells, part, k) for part in self.parts)
        pinned = (values == 0.0) & (self.zeros is not None)
        moved = np.where((weight > 0) & ~pinned, first / np.where(weight > 0, weight, 1), values)
        error = second - 2 * moved * first + moved**2 * weight
        counts = np.rint(count).astype(np.int64) + pinned * (self.zeros or 0)
        taken = np.flatnonzero((counts > 0) | pinned)
        taken = taken[np.argsort(moved[taken], kind="stable")]  # means may pass each other
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
        """Evenly spaced values, at most so many; zero among them if it is one of the problem's."""
        if self.zeros is None:
            width = (self.high - self.low) / values
            grid = self.low + width * (np.arange(values, dtype=np.float64) + 0.5)
        else:
            # Zero starts with twice the room of the others: else a value beside it, which saves
            # neither code nor gap, may take its members for good.
            side = (np.arange(values // 2, dtype=np.float64) + 1.5) / (values // 2 + 1)
            grid = np.concatenate([-side[::-1], [0.0], side]) * max(-self.low, self.high)
        return self._take(grid, np.zeros(len(grid)))

    def _take(self, values: Doubles, price: Doubles) -> Quantiser:
        """Every number to the value that costs it least."""
        first, end = self._runs(values, price)
        # A value's number stands at its first cell, and holds until the next one's.
        group, number = np.nonzero(end > first)
        marks = np.zeros(len(self.keys), np.int64)
        np.maximum.at(marks, first[group, number], group * len(values) + number)
        ahead = np.maximum.accumulate(marks) - self.group * len(values)
        cells = np.maximum(ahead, 0).astype(np.uint8)
        return self._quantiser(values, cells)

    def solve(self, values: int, penalty: float, iterations: int = 50) -> Quantiser:
        """The iteration for one penalty, from evenly spaced values."""
        found, best = self.start(values), np.inf
        for _ in range(iterations):
            shares = np.maximum(found.counts, 0.5) / self.total
            found = self._take(found.values, -penalty * np.log2(shares))
            cost = found.distortion + penalty * found.entropy
            if cost > best * (1 - 1e-4):
                break
            best = cost
        return found

    def penalty_for(self, values: int, bits: float, iterations: int = 50) -> float:
        """The least penalty whose solution has an entropy of at most ``bits``."""
        return self._bisect(values, bits, iterations)[0]

    def solve_bits(self, values: int, bits: float, iterations: int = 50) -> Quantiser:
        """The solution with the least penalty whose entropy is at most ``bits``."""
        _, above, below = self._bisect(values, bits, iterations)
        if above is below:
            return below
        between = self._between(above, bits)
        return between if between.distortion < below.distortion else below

    def _bisect(
        self, values: int, bits: float, iterations: int
    ) -> tuple[float, Quantiser, Quantiser]:
        """The least penalty that comes down to ``bits``, the solutions just above and below them.

        They are one where no penalty is needed.
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
            # Entropy falls with the logarithm of the penalty.
            middle = (low * high) ** 0.5 if low > 1e-9 * high else high / 64
            found = self.solve(values, middle, iterations)
            if found.entropy > bits:
                low, above = middle, found
            else:
                high, below = middle, found
        return high, above, below

    def _between(self, above: Quantiser, bits: float) -> Quantiser:
        """Bits that no penalty gives, from the solution above them.

        The iteration leaps over them, as from two values to one: the hull of the best solutions
        is straight there. The numbers that lose least go to a value that occurs more often.
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


def quantize_ecsq(
    weights: Arrays,
    values: int,
    *,
    penalty: float | None = None,
    bits: float | None = None,
    prune: bool = False,
    importance: Arrays | None = None,
    kept: Masks | None = None,
    together: bool = False,
    iterations: int = 50,
) -> dict[str, Quantized]:
    """Values that minimise mean importance times squared error + penalty * entropy of the codes.

    Args:
        weights: float32 by name.
        values: at most so many beside zero at the start, 1 to 255; those without members vanish.
        penalty: lambda, in units of the error for one bit; or
        bits: the entropy to come down to: lambda is bisected, for each problem.
        prune: zero is one of the values, and weights go there where that is worth its error. The
            entropy is then that of a code for each weight, pruned or not, which is about what
            codes and gaps take together.
        importance: as the weights.
        kept: as for :func:`share_kmeans`.
        together: one problem for all layers.
        iterations: at most so many, for each lambda.

    Raises:
        ValueError: not exactly one of ``penalty`` and ``bits``, or one is negative; names, shapes
            or numbers are wrong.
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
            found = problem.solve(values, penalty, iterations)
        else:
            assert bits is not None
            found = problem.solve_bits(values, bits, iterations)
        own = ~(prune & (found.values == 0))
        code = (np.cumsum(own) * own).astype(np.uint8)
        return code[problem.codes(found)], found.values[own].astype(np.float32)

    return solve(weights, importance, kept, together, solver)
