"""The methods that choose shared values: k-means, uniform, entropy-constrained (ECSQ).

Each takes pruned weights, layer by layer or all together (one problem, one set of values), and an
importance for each weight, such as the diagonal of the loss's Hessian, or none. Zeros are pruned
and stay so.

Sources: Han et al. (arXiv 1510.00149), section 3; Choi et al. (arXiv 1612.01543): Hessian-weighted
k-means section 3.3, all layers together 3.6, uniform 4.1, iterative ECSQ 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tersor import ecsq, kmeans
from tersor.checks import check_finite

MAX_VALUES = 255

_CHUNK = 1 << 20  # numbers looked at together

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Arrays = Mapping[str, Floats]
Masks = Mapping[str, npt.NDArray[np.bool_]]
# Weights that are not pruned, their importance and the number of those that are to codes 0 (pruned)
# to k, and the k values.
Solver = Callable[[Floats, Floats | None, int], tuple[Bytes, Floats]]


@dataclass(frozen=True, eq=False)
class Sharing:
    """A weight as codes of shared values.

    Attributes:
        codes: uint8 of the weight's shape; 0 = pruned, c = ``values[c - 1]``.
        values: float32 ``[k]``, k <= 255, ascending; each is taken by some weight.
    """

    codes: Bytes
    values: Floats

    def codebook(self) -> Floats:
        """The values with the zero of code 0 before them: float32 ``[k + 1]``."""
        return np.concatenate([np.zeros(1, np.float32), self.values])

    def dense(self) -> Floats:
        """The weight that this stands for."""
        return self.codebook()[self.codes]

    def entropy(self) -> float:
        """Bits for a code of a weight that is not pruned, at the entropy limit."""
        return code_entropy(self.codes)


def code_entropy(codes: Bytes) -> float:
    """Bits for a code that is not 0 (pruned), at the entropy limit; uint8 of any shape."""
    return ecsq.entropy_of(np.bincount(codes.reshape(-1), minlength=1)[1:])


def check(weights: Arrays, importance: Arrays | None) -> None:
    """What every method asks of its input.

    Raises:
        ValueError: a weight is not finite, or its importance lacks, has another shape, is not
            finite or is negative; the message has the name.
    """
    for name, weight in weights.items():
        check_finite(weight, name)
        if importance is None:
            continue
        if name not in importance:
            raise ValueError(f"{name}: no importance is given")
        given = importance[name]
        if given.shape != weight.shape:
            raise ValueError(f"{name}: importance has shape {given.shape}, expected {weight.shape}")
        check_finite(given, name, "importance")
        if given.min(initial=0.0) < 0:
            raise ValueError(f"{name}: the importance holds negative values")


def _values_taken(codes: Bytes, values: Floats) -> tuple[Bytes, Floats]:
    """Without the values that no weight takes, ascending; codes renumbered.

    Means by importance may pass each other, or meet.
    """
    taken = np.bincount(codes, minlength=len(values) + 1)[1:] > 0
    ascending, number = np.unique(values[taken], return_inverse=True)
    renumber = np.zeros(len(values) + 1, np.uint8)
    renumber[1:][taken] = number + 1
    return renumber[codes], ascending


def _solve(
    weights: Arrays, importance: Arrays | None, masks: Masks | None, together: bool, solver: Solver
) -> dict[str, Sharing]:
    """Runs a solver on the weights that are not pruned, of each layer or of all as one."""
    check(weights, importance)
    groups = [list(weights)] if together else [[name] for name in weights]
    shared: dict[str, Sharing] = {}
    for names in groups:
        kept = [(weights[name] != 0 if masks is None else masks[name]) for name in names]
        x = np.concatenate([weights[name][k] for name, k in zip(names, kept, strict=True)])
        h = None
        if importance is not None:
            h = np.concatenate([importance[name][k] for name, k in zip(names, kept, strict=True)])
            # Where nothing matters by the importance all weights matter alike.
            h = h.astype(np.float32) if h.sum() > 0 else None
        pruned = sum(k.size for k in kept) - len(x)
        codes, values = solver(x.astype(np.float32, copy=False), h, pruned)
        start = 0
        for name, k in zip(names, kept, strict=True):
            end = start + int(k.sum())
            own, own_values = _values_taken(codes[start:end], values)
            full = np.zeros(k.shape, np.uint8)
            full[k] = own
            shared[name] = Sharing(full, own_values)
            start = end
    return shared


def share_kmeans(
    weights: Arrays,
    values: int,
    *,
    importance: Arrays | None = None,
    kept: Masks | None = None,
    together: bool = False,
    mode: str = "exact",
    initialization: str = "linear",
    seed: int = 0,
) -> dict[str, Sharing]:
    """Values that minimise the sum of importance times squared error.

    Args:
        weights: float32 by name.
        values: at most so many beside zero, 1 to 255.
        importance: as the weights; Hessian-weighted k-means with the Hessian's diagonal.
        kept: bool, as the weights: which are not pruned; None = those that are not zero.
        together: one problem for all layers.
        mode: ``exact`` or ``lloyd``.
        initialization: of ``lloyd``: ``linear``, ``density`` or ``random``.
        seed: of ``random``.

    Raises:
        ValueError: an option is unknown or out of range; names, shapes or numbers are wrong.
    """

    def solver(x: Floats, h: Floats | None, pruned: int) -> tuple[Bytes, Floats]:
        found = kmeans.cluster(
            x, values, mode=mode, initialization=initialization, importance=h, seed=seed
        )
        return found.codes, found.values

    return _solve(weights, importance, kept, together, solver)


def _parts(n: int) -> Iterator[slice]:
    """Chunks of so many numbers: what is made of each in between then takes little memory."""
    for start in range(0, n, _CHUNK):
        yield slice(start, start + _CHUNK)


def _centres(codes: Bytes, x: Floats, h: Floats | None, count: int) -> Floats:
    """Weighted mean of each value's members; the plain mean where no member matters."""
    total, weighted, plain, members = np.zeros((4, count + 1))
    for part in _parts(len(x)):
        weight = np.ones_like(x[part]) if h is None else h[part]
        total += np.bincount(codes[part], weight, count + 1)
        weighted += np.bincount(codes[part], weight * x[part].astype(np.float64), count + 1)
        plain += np.bincount(codes[part], x[part], count + 1)
        members += np.bincount(codes[part], minlength=count + 1)
    means = np.where(
        total > 0, weighted / np.where(total > 0, total, 1.0), plain / np.maximum(1, members)
    )
    return means[1:].astype(np.float32)


def _uniform(x: Floats, h: Floats | None, step: float) -> tuple[Bytes, Floats]:
    parts = [x[part] for part in _parts(len(x))]
    bins = np.unique(np.concatenate([np.unique(np.rint(part / step)) for part in parts]))
    distinct = bins[bins != 0]
    if len(distinct) > MAX_VALUES:
        raise ValueError(f"step {step:g} makes {len(distinct)} values, more than {MAX_VALUES}")
    code = np.zeros(len(bins), np.uint8)
    code[bins != 0] = np.arange(1, len(distinct) + 1)
    found = [code[np.searchsorted(bins, np.rint(part / step))] for part in parts]
    codes = np.concatenate(found)
    return codes, _centres(codes, x, h, len(distinct))


def share_uniform(
    weights: Arrays,
    values: int | None = None,
    *,
    step: float | None = None,
    importance: Arrays | None = None,
    kept: Masks | None = None,
    together: bool = False,
) -> dict[str, Sharing]:
    """Evenly spaced thresholds; the value of a bin is the (weighted) mean of its members.

    Bins are centred on the multiples of the step. What falls into that of zero is pruned.

    Args:
        weights: float32 by name.
        values: at most so many beside zero, 1 to 255: makes the step; or
        step: width of a bin.
        importance: as the weights.
        kept: as for :func:`share_kmeans`.
        together: one step, and one set of values, for all layers.

    Raises:
        ValueError: not exactly one of ``values`` and ``step``, or one is out of range; names,
            shapes or numbers are wrong.
    """
    if (values is None) == (step is None):
        raise ValueError("give either values or step")
    if values is not None and not 1 <= values <= MAX_VALUES:
        raise ValueError(f"values must be 1 to {MAX_VALUES}, not {values}")
    if step is not None and not step > 0:
        raise ValueError(f"step must be positive, not {step}")

    def solver(x: Floats, h: Floats | None, pruned: int) -> tuple[Bytes, Floats]:
        if not len(x):
            return np.zeros(0, np.uint8), np.zeros(0, np.float32)
        if values == 1:  # on both sides of zero
            codes = np.ones(len(x), np.uint8)
            return codes, _centres(codes, x, h, 1)
        if values is None:
            assert step is not None
            return _uniform(x, h, step)
        # Bins 1 to values / 2 on each side.
        return _uniform(x, h, float(np.abs(x).max()) / (values // 2 + 0.499))

    return _solve(weights, importance, kept, together, solver)


def share_ecsq(
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
) -> dict[str, Sharing]:
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
        problem = ecsq.Problem(x, h, zeros=pruned if prune else None)
        if penalty is not None:
            found = problem.solve(values, penalty, iterations)
        else:
            assert bits is not None
            found = problem.solve_bits(values, bits, iterations)
        own = ~(prune & (found.values == 0))
        code = (np.cumsum(own) * own).astype(np.uint8)
        return code[problem.codes(found)], found.values[own].astype(np.float32)

    return _solve(weights, importance, kept, together, solver)
