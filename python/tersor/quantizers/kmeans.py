"""One-dimensional clustering of weights: the codebook of weight sharing.

Sources: Han et al., Deep Compression (arXiv 1510.00149), section 3; Choi et al., Towards the Limit
of Network Quantization (arXiv 1612.01543), section 3.3 (importance).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tersor import _core
from tersor.quantizers.base import Arrays, Bytes, Floats, Masks, Quantized, solve


@dataclass(frozen=True, eq=False)
class Clustering:
    """Shared values and who takes which.

    Attributes:
        values: float32 ``[k]``, ascending and distinct; fewer than asked where fewer occur.
        codes: uint8 ``[n]``, 1 to k: the number of each element's value; 0 stays free for "pruned".
        distortion: the sum of importance times squared distance.
    """

    values: npt.NDArray[np.float32]
    codes: npt.NDArray[np.uint8]
    distortion: float


def cluster(
    values: npt.ArrayLike,
    clusters: int,
    *,
    mode: str = "exact",
    initialization: str = "linear",
    importance: npt.ArrayLike | None = None,
    max_iterations: int = 100,
    seed: int = 0,
    threads: int = 1,
) -> Clustering:
    """Clusters numbers into at most ``clusters`` shared values.

    Args:
        values: float32 ``[n]`` (any shape; taken flat).
        clusters: 1 to 255.
        mode: ``exact``, the optimum by dynamic programming over a fine histogram, or ``lloyd``.
        initialization: of ``lloyd``: ``linear``, ``density`` or ``random``.
        importance: non-negative weight of each element, for example a Hessian diagonal.
        max_iterations: of ``lloyd``.
        seed: of the random initialisation.
        threads: never changes the result.

    Raises:
        ValueError: an option is unknown or out of range, the lengths differ, or a number is NaN or
            infinite.
    """
    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
    weights = np.ascontiguousarray(
        () if importance is None else importance, dtype=np.float32
    ).reshape(-1)
    return Clustering(
        *_core.kmeans_cluster(
            flat, clusters, weights, mode, initialization, max_iterations, seed, threads
        )
    )


def quantize_kmeans(
    weights: Arrays,
    values: int,
    *,
    importance: Arrays | None = None,
    kept: Masks | None = None,
    together: bool = False,
    mode: str = "exact",
    initialization: str = "linear",
    seed: int = 0,
) -> dict[str, Quantized]:
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
        found = cluster(
            x, values, mode=mode, initialization=initialization, importance=h, seed=seed
        )
        return found.codes, found.values

    return solve(weights, importance, kept, together, solver)
