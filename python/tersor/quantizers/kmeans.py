"""One-dimensional k-means over weights.

Sources: Han et al., Deep Compression (arXiv 1510.00149), section 3; Choi et al., Towards the Limit
of Network Quantization (arXiv 1612.01543), section 3.3 (importance).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tersor import _core
from tersor._renamed import renamed_arguments
from tersor.quantizers.base import Arrays, Bytes, Floats, Masks, Quantized, solve


@dataclass(frozen=True, eq=False)
class Clustering:
    """Centroids and assignments.

    Attributes:
        values: centroids, float32 ``[k]``, ascending and distinct; k may be less than requested.
        codes: uint8 ``[n]``, cluster indices 1 to k; 0 is reserved for "pruned".
        distortion: sum of importance times squared error.
    """

    values: npt.NDArray[np.float32]
    codes: npt.NDArray[np.uint8]
    distortion: float


@renamed_arguments(mode="algorithm")
def cluster(
    values: npt.ArrayLike,
    clusters: int,
    *,
    algorithm: str = "exact",
    initialization: str = "linear",
    importance: npt.ArrayLike | None = None,
    max_iterations: int = 100,
    seed: int = 0,
    threads: int = 1,
) -> Clustering:
    """Clusters values around at most ``clusters`` centroids.

    Args:
        values: float32 ``[n]`` (any shape, flattened).
        clusters: 1 to 255.
        algorithm: ``exact``, optimal by dynamic programming over a fine histogram, or
            ``lloyd``.
        initialization: for ``lloyd``: ``linear``, ``density`` or ``random``.
        importance: non-negative weight of each element, for example a Hessian diagonal.
        max_iterations: for ``lloyd``.
        seed: for ``random`` initialization.
        threads: maximum number; does not change the result.

    Raises:
        ValueError: an option is unknown or out of range, the lengths differ, or an element is NaN
            or infinite.
    """
    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
    weights = np.ascontiguousarray(
        () if importance is None else importance, dtype=np.float32
    ).reshape(-1)
    return Clustering(
        *_core.kmeans_cluster(
            flat, clusters, weights, algorithm, initialization, max_iterations, seed, threads
        )
    )


@renamed_arguments(values="codebook_size", together="joint", mode="algorithm")
def quantize_kmeans(
    weights: Arrays,
    codebook_size: int,
    *,
    importance: Arrays | None = None,
    kept: Masks | None = None,
    joint: bool = False,
    algorithm: str = "exact",
    initialization: str = "linear",
    seed: int = 0,
) -> dict[str, Quantized]:
    """Quantizes weights by k-means: the least sum of importance times squared error.

    Args:
        weights: float32 by name.
        codebook_size: maximum number of non-zero codebook entries, 1 to 255.
        importance: non-negative, names and shapes as the weights; the diagonal of the loss Hessian
            gives Hessian-weighted k-means; None = all equal.
        kept: bool, names and shapes as the weights: the weights that are not pruned; None = those
            that are not zero.
        joint: fit one codebook over all layers.
        algorithm: ``exact`` or ``lloyd``.
        initialization: for ``lloyd``: ``linear``, ``density`` or ``random``.
        seed: for ``random`` initialization.

    Raises:
        ValueError: an option is unknown or out of range; or names, shapes or values are invalid.
    """

    def solver(x: Floats, h: Floats | None, pruned: int) -> tuple[Bytes, Floats]:
        found = cluster(
            x,
            codebook_size,
            algorithm=algorithm,
            initialization=initialization,
            importance=h,
            seed=seed,
        )
        return found.codes, found.values

    return solve(weights, importance, kept, joint, solver)
