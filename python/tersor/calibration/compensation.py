"""Pruning and sharing without labels or retraining: errors are compensated, weight by weight.

For inputs x with the second moments G = E[x x^T], changing a row of a weight by d costs d G d^T of
its output. The columns are settled in order; after each, those to come take up its error as well
as they can, which is the update of the optimal brain surgeon (Hassibi and Stork 1993) for all rows
at once. Two sweeps are made: the first prunes, and so finds the mask and the values that the kept
weights want to have; the second starts again from the dense weight and puts each kept weight on
the nearest shared value. Where a layer has a bias, it takes up the mean of the error, and G is
taken about the mean of x.

Where the settings let ECSQ prune, the rate is in the loop: both sweeps put each weight on the
multiple of one step that costs least, by its own error and by the price of its code, and so the
weights that come later make up for what zeros and short codes cost.

Sources: SparseGPT (arXiv 2301.00774), section 3; GPTQ (arXiv 2210.17323), section 3, whose shared
inverse and lazy blocks these are. The step is that of a uniform quantiser at high rates (Gish and
Pierce 1968, "Asymptotically efficient quantizing").
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tersor.calibration.statistics import InputStatistics, blocks_of, input_statistics
from tersor.config import LayerConfig
from tersor.pruning.magnitude import kept_by
from tersor.quantizers import ecsq
from tersor.quantizers.choose import codebook_size_of, entropy_of_settings, quantize_weight

_BLOCK = 128  # columns whose updates of later ones are gathered
# Of the mean diagonal, added to the diagonal. With 128 inputs the moments of hundreds of entries
# are rough, and ten times GPTQ's 0.01 (each of its inputs has 2048 tokens) takes LeNet-300-100 at
# a density of 0.2 from 5.3 to 3.3 % error.
_DAMPING = 0.1


def inverse_root(second: torch.Tensor, power: float = 0.0) -> torch.Tensor:
    """Upper triangular U with U^T U the inverse of the damped second moments ``[n, n]``.

    Moments about a mean have rounding errors by the ``power`` of the inputs, the sum of their
    squares: where inputs hardly vary, these alone could make moments that are none.
    """
    diagonal = _DAMPING * float(second.diagonal().mean()) + 1e-6 * power
    damped = second + max(diagonal, 1e-12) * torch.eye(len(second))
    # G = R R^T with R upper triangular: the Cholesky factor of G read backwards. Then U = R^-1.
    root = torch.linalg.cholesky(damped.flip(0, 1)).flip(0, 1)
    inverse: torch.Tensor = torch.linalg.solve_triangular(root, torch.eye(len(second)), upper=True)
    return inverse


def sweep(
    weight: torch.Tensor,
    root: torch.Tensor,
    settle: Callable[[torch.Tensor, int], torch.Tensor],
    look: Callable[[torch.Tensor, slice], None] | None = None,
) -> torch.Tensor:
    """Settles column by column, and lets later columns take up the error.

    Args:
        weight: float32 ``[rows, n]``.
        root: :func:`inverse_root` of the inputs.
        settle: of a column as it now is, and its number: what it becomes.
        look: is shown each block of columns before they are settled.
    """
    weight = weight.clone()
    settled = torch.empty_like(weight)
    for start in range(0, weight.shape[1], _BLOCK):
        block = slice(start, min(start + _BLOCK, weight.shape[1]))
        columns, own = weight[:, block], root[block, block]
        if look is not None:
            look(columns, block)
        errors = torch.empty_like(columns)
        for i in range(columns.shape[1]):
            settled[:, start + i] = settle(columns[:, i], start + i)
            errors[:, i] = (columns[:, i] - settled[:, start + i]) / own[i, i]
            columns[:, i + 1 :].addr_(errors[:, i], own[i, i + 1 :], alpha=-1.0)
        weight[:, block.stop :].addmm_(errors, root[block, block.stop :], alpha=-1.0)
    return settled


@dataclass
class Piece:
    """A part of a weight that is settled by itself: a group of a convolution, a block of inputs."""

    rows: slice
    inputs: slice
    root: torch.Tensor

    def of(self, weight: torch.Tensor) -> torch.Tensor:
        """The part of ``[rows, inputs]``, a view."""
        return weight[self.rows, self.inputs]

    def certainty(self) -> torch.Tensor:
        """The inverse of what a squared error costs, ``[inputs]``, where later inputs make up."""
        return self.root.diagonal() ** 2


def prune_sweep(weight: torch.Tensor, piece: Piece, wanted: torch.Tensor) -> torch.Tensor:
    """Prunes a piece, error compensated: ``[rows, inputs]``; zeros stay zero.

    A block of columns keeps as many weights as ``wanted`` has there, those that cost most when
    their turn comes.
    """
    certainty = piece.certainty()
    kept = torch.zeros_like(wanted)

    def look(columns: torch.Tensor, block: slice) -> None:
        cost = torch.where(weight[:, block] != 0, columns**2 / certainty[block], -1.0)
        mask = torch.zeros(cost.numel(), dtype=torch.bool)
        number = int(wanted[:, block].sum())
        mask[torch.topk(cost.flatten(), number, sorted=False).indices] = True
        kept[:, block] = mask.view_as(cost)

    return sweep(weight, piece.root, lambda column, i: column * kept[:, i], look)


def importance_of(weight: torch.Tensor, pieces: list[Piece]) -> torch.Tensor:
    """What a squared error of each entry costs: ``[rows, inputs]``."""
    importance = torch.empty_like(weight)
    for piece in pieces:
        piece.of(importance).copy_(1.0 / piece.certainty())
    return importance


def step_of(penalty: float, importance: float) -> float:
    """The width of steps that suits the error which a bit is worth.

    The error of steps s is importance * s^2 / 12, and a bit more quarters it: at this width the
    next bit saves just the penalty.
    """
    return math.sqrt(6.0 * penalty / (math.log(2.0) * importance))


def rate_sweeps(
    weight: torch.Tensor, pieces: list[Piece], kept: torch.Tensor, penalty: float, values: int
) -> torch.Tensor:
    """Prunes and shares a weight at the price of its codes, error compensated: ``[rows, inputs]``.

    Args:
        weight: float32 ``[rows, inputs]``.
        pieces: that make up the weight.
        kept: bool, as the weight; the others become zero.
        penalty: the error that a bit is worth.
        values: at most so many beside zero.
    """
    importance = importance_of(weight, pieces)
    low, high = -(values // 2), values - values // 2
    step = step_of(penalty, float(importance[kept].mean()))
    step = max(step, float(weight[kept].abs().max()) / max(1, values // 2))
    codes = (weight / step).round_().clamp_(low, high) * kept
    for _ in range(2):
        # By how often each code occurred so far; one that did not may be used yet.
        counts = torch.bincount((codes.flatten() - low).long(), minlength=values + 1)
        price = -penalty * (counts.float().clamp(min=0.5) / codes.numel()).log2()
        for piece in pieces:
            own, allowed = piece.of(codes), piece.of(kept)
            cost_of_error = 1.0 / piece.certainty()

            def settle(
                column: torch.Tensor,
                i: int,
                own: torch.Tensor = own,
                allowed: torch.Tensor = allowed,
                cost_of_error: torch.Tensor = cost_of_error,
                price: torch.Tensor = price,
            ) -> torch.Tensor:
                # What is best lies between zero and the nearest, mostly beside one of the two.
                nearest = (column / step).round_().clamp_(low, high)
                inner = nearest - nearest.sign()
                tried = torch.stack(
                    [nearest, inner, inner - inner.sign(), torch.zeros_like(nearest)]
                )
                error = column - tried * step
                cost = cost_of_error[i] * error * error + price[(tried - low).long()]
                best = tried.gather(0, cost.argmin(0, keepdim=True))[0]
                own[:, i] = best * allowed[:, i]
                return own[:, i] * step

            sweep(piece.of(weight), piece.root, settle)
    return codes * step


def _penalty(x: torch.Tensor, importance: torch.Tensor, zeros: int, settings: LayerConfig) -> float:
    """The penalty that is given, or the one of the bits if nothing were compensated."""
    if settings.penalty is not None:
        return settings.penalty
    values = codebook_size_of(settings, 2)
    problem = ecsq.Problem(x.numpy(), importance.numpy(), zeros)
    return problem.penalty_for(values, entropy_of_settings(settings, values))


def compensate(
    weight: torch.Tensor, pieces: list[Piece], settings: LayerConfig, name: str = "weight"
) -> torch.Tensor:
    """Prunes and shares the values of a weight, error compensated.

    Args:
        weight: float32 ``[rows, inputs]``.
        pieces: that make up the weight.
        settings: density or threshold, and what chooses the shared values, count; the plain kinds
            are pruned alone.
        name: for messages.

    Returns:
        float32 ``[rows, inputs]``.
    """
    importance = importance_of(weight, pieces)
    largest = torch.from_numpy(kept_by(weight.numpy(), settings))
    count = int(largest.sum())
    if settings.prune and settings.kind.startswith("shared") and count > 0:
        penalty = _penalty(weight[largest], importance[largest], weight.numel() - count, settings)
        return rate_sweeps(weight, pieces, largest, penalty, codebook_size_of(settings, 2))
    # How many weights each part keeps goes by what pruning them alone would cost.
    cost = torch.where(weight != 0, weight**2 * importance, -1.0)
    wanted = torch.zeros(weight.numel(), dtype=torch.bool)
    wanted[torch.topk(cost.flatten(), count, sorted=False).indices] = True
    wanted = wanted.view_as(weight)
    pruned = torch.empty_like(weight)
    for piece in pieces:
        piece.of(pruned).copy_(prune_sweep(piece.of(weight), piece, piece.of(wanted)))
    if not settings.kind.startswith("shared") or count == 0:
        return pruned
    mask = (pruned != 0).numpy()
    sharing = quantize_weight(pruned.numpy(), mask, settings, name, importance.numpy())
    values = torch.from_numpy(sharing.values)
    bounds = (values[1:] + values[:-1]) / 2
    shared = torch.empty_like(weight)
    for piece in pieces:
        kept = piece.of(pruned) != 0

        def settle(column: torch.Tensor, i: int, kept: torch.Tensor = kept) -> torch.Tensor:
            return values[torch.bucketize(column.contiguous(), bounds)] * kept[:, i]

        piece.of(shared).copy_(sweep(piece.of(weight), piece.root, settle))
    return shared


def pieces_of(layer: nn.Linear | nn.Conv2d, moments: InputStatistics) -> list[Piece]:
    """The pieces of a layer's weight; with a bias, the moments are taken about their mean."""
    groups, inputs = moments.mean.shape
    rows = len(layer.weight) // groups
    pieces = []
    for g, mean in enumerate(moments.mean):
        for block, second in zip(blocks_of(inputs), moments.second, strict=True):
            centred, power = second[g], 0.0
            if layer.bias is not None:
                power = float(centred.trace())
                centred = centred - torch.outer(mean[block], mean[block])
            root = inverse_root(centred, power)
            pieces.append(Piece(slice(g * rows, (g + 1) * rows), block, root))
    return pieces


@torch.no_grad()
def compensate_layer_(
    layer: nn.Linear | nn.Conv2d,
    moments: InputStatistics,
    settings: LayerConfig,
    name: str = "layer",
) -> None:
    """Prunes and shares a layer's weight in place; its bias takes up the mean of the error."""
    weight = layer.weight.detach().float().flatten(1)
    settings = dataclasses.replace(
        settings, codebook_size=codebook_size_of(settings, layer.weight.dim())
    )
    made = compensate(weight, pieces_of(layer, moments), settings, name)
    if layer.bias is not None:
        groups, inputs = moments.mean.shape
        error = (weight - made).view(groups, -1, inputs)
        layer.bias += torch.einsum("gri,gi->gr", error, moments.mean).flatten().to(layer.bias)
    layer.weight.copy_(made.view_as(layer.weight))


@torch.no_grad()
def compensate_(
    model: nn.Module,
    batches: Iterable[torch.Tensor],
    settings: Mapping[nn.Module, tuple[str, LayerConfig]],
    progress: Callable[[str], None] | None = None,
) -> set[nn.Module]:
    """Settles the layers of a model one after another, in the order of their first call.

    Each sees its inputs as the layers before it, settled already, give them.

    Args:
        model: is run in evaluation mode.
        batches: inputs, some 128 in all; no labels.
        settings: name and settings of each layer that is to be settled.
        progress: called with the name of each layer that is done.

    Returns:
        The layers that inputs reach; the others are as they were.

    Raises:
        ValueError: a convolution's padding is no number.
    """
    batches = list(batches)
    order: dict[nn.Module, None] = {}
    handles = [
        layer.register_forward_pre_hook(lambda module, _: order.setdefault(module))
        for layer in settings
    ]
    training = model.training
    model.eval()
    try:
        for x in batches[:1]:
            model(x)
        for handle in handles:
            handle.remove()
        for module in order:
            layer: Any = module
            name, chosen = settings[module]
            moments = input_statistics(model, layer, batches)
            assert moments is not None
            compensate_layer_(layer, moments, chosen, name)
            if progress is not None:
                progress(name)
    finally:
        model.train(training)
    return set(order)


@torch.no_grad()
def whole_errors(
    model: nn.Module, layers: Mapping[str, nn.Linear | nn.Conv2d], batches: Iterable[torch.Tensor]
) -> dict[str, float]:
    """What pruning all of a layer's weights would cost, weight by weight, by the layer's name.

    Layers that are never called have none.
    """
    batches = list(batches)
    training = model.training
    model.eval()
    errors: dict[str, float] = {}
    try:
        for name, layer in layers.items():
            moments = input_statistics(model, layer, batches)
            if moments is not None:
                weight = layer.weight.detach().float().flatten(1)
                importance = importance_of(weight, pieces_of(layer, moments))
                errors[name] = float((importance * weight**2).sum())
    finally:
        model.train(training)
    return errors
