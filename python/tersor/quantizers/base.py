"""What the quantizers share: k-means, uniform, entropy-constrained (ECSQ).

Each takes pruned weights, with one codebook per layer or a joint codebook over all layers, and
optionally an importance per weight, such as the diagonal of the loss Hessian. Zero weights are
pruned and stay zero.

Sources: Han et al. (arXiv 1510.00149), section 3; Choi et al. (arXiv 1612.01543): Hessian-weighted
k-means section 3.3, joint codebook 3.6, uniform 4.1, iterative ECSQ 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tersor._validation import check_finite

MAX_CODEBOOK_SIZE = 255

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Arrays = Mapping[str, Floats]
Masks = Mapping[str, npt.NDArray[np.bool_]]
# Takes the kept weights, their importance and the number of pruned weights; returns the codes of
# the kept weights, 0 (pruned) to k, and the codebook of k entries.
Solver = Callable[[Floats, Floats | None, int], tuple[Bytes, Floats]]


def entropy_of(counts: npt.NDArray[np.int64]) -> float:
    """Entropy in bits per code of a histogram of codes."""
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(np.abs(shares * np.log2(shares)).sum())  # no -0.0


@dataclass(frozen=True, eq=False)
class Quantized:
    """A quantized weight: a codebook and the code of each weight.

    Attributes:
        codes: uint8 of the weight's shape; 0 = pruned, c = ``values[c - 1]``.
        values: codebook, float32 ``[k]``, k <= 255, ascending; every entry is in use.
    """

    codes: Bytes
    values: Floats

    def codebook(self) -> Floats:
        """The codebook with the zero of code 0 in front: float32 ``[k + 1]``."""
        return np.concatenate([np.zeros(1, np.float32), self.values])

    def dense(self) -> Floats:
        """The dequantized weight: float32 of the weight's shape."""
        return self.codebook()[self.codes]

    def entropy(self) -> float:
        """Entropy of the codes of the kept weights, in bits per code."""
        return code_entropy(self.codes)


def code_entropy(codes: Bytes) -> float:
    """Entropy of the non-zero codes, in bits per code; uint8 of any shape."""
    return entropy_of(np.bincount(codes.reshape(-1), minlength=1)[1:])


def check(weights: Arrays, importance: Arrays | None) -> None:
    """Validates the input of a quantizer.

    Raises:
        ValueError: a weight is not finite, or its importance is missing, has another shape, is not
            finite or is negative; the message names the weight.
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
            raise ValueError(f"{name}: the importance has negative values")


def _entries_in_use(codes: Bytes, values: Floats) -> tuple[Bytes, Floats]:
    """Drops unused codebook entries, sorts the rest and renumbers the codes.

    Weighted means may change their order, or coincide.
    """
    used = np.bincount(codes, minlength=len(values) + 1)[1:] > 0
    ascending, number = np.unique(values[used], return_inverse=True)
    renumber = np.zeros(len(values) + 1, np.uint8)
    renumber[1:][used] = number + 1
    return renumber[codes], ascending


def solve(
    weights: Arrays, importance: Arrays | None, masks: Masks | None, joint: bool, solver: Solver
) -> dict[str, Quantized]:
    """Runs a solver on the kept weights, one layer at a time or, if ``joint``, all at once."""
    check(weights, importance)
    groups = [list(weights)] if joint else [[name] for name in weights]
    shared: dict[str, Quantized] = {}
    for names in groups:
        kept = [(weights[name] != 0 if masks is None else masks[name]) for name in names]
        x = np.concatenate([weights[name][k] for name, k in zip(names, kept, strict=True)])
        h = None
        if importance is not None:
            h = np.concatenate([importance[name][k] for name, k in zip(names, kept, strict=True)])
            # All-zero importance tells nothing: treat the weights as equally important.
            h = h.astype(np.float32) if h.sum() > 0 else None
        pruned = sum(k.size for k in kept) - len(x)
        codes, values = solver(x.astype(np.float32, copy=False), h, pruned)
        start = 0
        for name, k in zip(names, kept, strict=True):
            end = start + int(k.sum())
            own, own_values = _entries_in_use(codes[start:end], values)
            full = np.zeros(k.shape, np.uint8)
            full[k] = own
            shared[name] = Quantized(full, own_values)
            start = end
    return shared
