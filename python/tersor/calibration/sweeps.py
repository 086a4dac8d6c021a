"""Error compensation of one weight, column by column.

For inputs x with the second moments G = E[x x^T], changing a row of the weight by d changes its
output by d G d^T in mean square. The columns are processed in order. After each, the remaining
columns are updated to absorb its error in the least-squares sense: the update of the optimal brain
surgeon (Hassibi and Stork 1993), for all rows at once. Where a bias absorbs the mean error, G is
the covariance of x.

Sources: SparseGPT (arXiv 2301.00774), section 3; GPTQ (arXiv 2210.17323), section 3, for the
inverse shared by all rows and the lazy block updates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

_BLOCK = 128  # columns whose updates of later ones are gathered


# Of the mean diagonal, added to the diagonal. With 128 inputs the second moments of hundreds of
# entries are rough, and ten times GPTQ's 0.01 (each of its inputs has 2048 tokens) takes
# LeNet-300-100 at a density of 0.2 from 5.3 to 3.3 % error.
_DAMPING = 0.1


def inverse_root(second: torch.Tensor, power: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Upper triangular U such that U^T U is the inverse of the damped second moments.

    Args:
        second: float32 ``[groups, n, n]``.
        power: by group, trace of the second moments before centring, 0 if they were not centred.
            Centring leaves rounding errors proportional to it. For nearly constant inputs these
            could make the matrix indefinite, so the damping grows with it.

    Returns:
        float32 ``[groups, n, n]``.

    Raises:
        ValueError: a damped matrix is not positive definite.
    """
    damping = _DAMPING * second.diagonal(dim1=1, dim2=2).mean(1) + 1e-6 * power
    # Relative to the inputs, whose scale must not matter; where all are zero, any number will do.
    damping = torch.where(damping > 0, damping, 1e-12)
    identity = torch.eye(second.shape[1], device=second.device)
    # G = R R^T with R upper triangular: the Cholesky factor of G read backwards. Then U = R^-1.
    root, failed = torch.linalg.cholesky_ex((second + damping[:, None, None] * identity).flip(1, 2))
    if failed.any():
        raise ValueError("the second moments of its inputs are not positive definite")
    root = root.flip(1, 2)
    inverse: torch.Tensor = torch.linalg.solve_triangular(
        root, identity.expand_as(root), upper=True
    )
    return inverse


def sweep(
    weight: torch.Tensor,
    root: torch.Tensor,
    quantize: Callable[[torch.Tensor, int], torch.Tensor],
    start_block: Callable[[torch.Tensor, slice], None] | None = None,
) -> torch.Tensor:
    """Quantizes column by column; later columns compensate for the error of earlier ones.

    Args:
        weight: float32 ``[groups, rows, n]``; groups have nothing to do with each other.
        root: :func:`inverse_root` of the second moments of the inputs.
        quantize: takes a column's current values ``[groups, rows]`` and its index, returns its new
            values.
        start_block: called with each block of columns ``[groups, rows, columns]``, and its slice,
            before it is processed.

    Returns:
        The quantized weight, float32 ``[groups, rows, n]``.
    """
    # A column lies in one piece, which all that is done to it is faster for.
    left = weight.transpose(1, 2).contiguous()
    left = left.clone() if left.data_ptr() == weight.data_ptr() else left
    quantized = torch.empty_like(left)
    columns = left.shape[1]
    scale = root.diagonal(dim1=1, dim2=2)
    for start in range(0, columns, _BLOCK):
        block = slice(start, min(start + _BLOCK, columns))
        if start_block is not None:
            start_block(left[:, block].transpose(1, 2), block)
        errors = torch.empty_like(left[:, block])
        for i in range(block.start, block.stop):
            quantized[:, i] = quantize(left[:, i], i)
            error = (left[:, i] - quantized[:, i]) / scale[:, i, None]
            errors[:, i - start] = error
            _subtract_product(left[:, i + 1 : block.stop], root[:, i, i + 1 : block.stop], error)
        left[:, block.stop :].baddbmm_(
            root[:, block, block.stop :].transpose(1, 2), errors, alpha=-1.0
        )
    return quantized.transpose(1, 2)


def _subtract_product(columns: torch.Tensor, factors: torch.Tensor, error: torch.Tensor) -> None:
    """Takes the outer product of factors and errors from the columns of each group."""
    if len(columns) == 1:
        columns[0].addr_(factors[0], error[0], alpha=-1.0)
    else:
        columns.baddbmm_(factors[:, :, None], error[:, None, :], alpha=-1.0)


@dataclass
class Piece:
    """A part of a weight ``[groups, rows, inputs]`` that is processed by itself: some inputs.

    Attributes:
        inputs: which.
        root: :func:`inverse_root` of their second moments, ``[groups, n, n]``.
    """

    inputs: slice
    root: torch.Tensor

    def of(self, weight: torch.Tensor) -> torch.Tensor:
        """A view of this part of a weight."""
        return weight[:, :, self.inputs]

    def certainty(self) -> torch.Tensor:
        """Diagonal of the inverse second moments of the inputs from each one on, ``[groups, n]``.

        A squared error in a column costs 1 / certainty after compensation.
        """
        return self.root.diagonal(dim1=1, dim2=2) ** 2


class _BlockwisePruner:
    """Prunes the columns of a piece; which weights, it chooses as their block is reached."""

    def __init__(self, weight: torch.Tensor, piece: Piece, wanted: torch.Tensor) -> None:
        self.weight, self.wanted, self.certainty = weight, wanted, piece.certainty()
        self.kept = torch.zeros_like(wanted)

    def choose(self, columns: torch.Tensor, block: slice) -> None:
        """Keeps as many weights as are wanted in this block: those of the largest error."""
        cost = columns**2 / self.certainty[:, None, block]
        cost = torch.where(self.weight[:, :, block] != 0, cost, -1.0)
        self.kept[:, :, block] = largest(cost, int(self.wanted[:, :, block].sum()))

    def prune(self, column: torch.Tensor, i: int) -> torch.Tensor:
        return column * self.kept[:, :, i]


def largest(cost: torch.Tensor, count: int) -> torch.Tensor:
    """Marks the ``count`` largest entries: bool, of the same shape."""
    mask = torch.zeros(cost.numel(), dtype=torch.bool, device=cost.device)
    mask[torch.topk(cost.flatten(), count, sorted=False).indices] = True
    return mask.view_as(cost)


def prune_sweep(weight: torch.Tensor, piece: Piece, wanted: torch.Tensor) -> torch.Tensor:
    """Prunes a piece with error compensation; zeros stay zero.

    Each block of columns keeps as many weights as ``wanted`` marks in it: those with the largest
    pruning error at the time the block is reached.

    Args:
        weight: float32 ``[groups, rows, inputs]``.
        piece: the part that is pruned.
        wanted: bool ``[groups, rows, inputs]``.

    Returns:
        The pruned piece, float32 ``[groups, rows, inputs]``.
    """
    pruner = _BlockwisePruner(weight, piece, wanted)
    return sweep(weight, piece.root, pruner.prune, pruner.choose)


def importance_of(weight: torch.Tensor, pieces: list[Piece]) -> torch.Tensor:
    """Cost of a squared error in each weight after compensation: of the weight's shape."""
    importance = torch.empty_like(weight)
    for piece in pieces:
        piece.of(importance).copy_(1.0 / piece.certainty()[:, None])
    return importance
