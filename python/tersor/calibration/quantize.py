"""One weight pruned and quantized with its errors compensated.

Where the settings let ECSQ prune, codes are chosen by error and rate
(:mod:`tersor.calibration.rates`). Otherwise there are two passes. The first prunes; it gives the
mask, and the compensated weights to which the codebook is fitted. The second starts again from the
weight and rounds each kept one to the nearest codebook entry.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tersor.calibration.rates import Scaled, rate_sweeps, steps_of
from tersor.calibration.sweeps import Piece, importance_of, largest, prune_sweep, sweep
from tersor.config import LayerConfig
from tersor.pruning.magnitude import kept_by
from tersor.quantizers.choose import codebook_size_of, entropy_of_settings, quantize_weight


@dataclass
class _NearestEntry:
    """Gives each kept weight of a piece the nearest codebook entry.

    Attributes:
        entries: float32 ``[k]``, ascending.
        kept: bool ``[groups, rows, inputs]``.
    """

    entries: torch.Tensor
    kept: torch.Tensor

    def quantize(self, column: torch.Tensor, i: int) -> torch.Tensor:
        bounds = (self.entries[1:] + self.entries[:-1]) / 2
        nearest = torch.bucketize(column.contiguous(), bounds)
        return self.entries[nearest] * self.kept[:, :, i]


def _at_rate(
    weight: torch.Tensor,
    pieces: list[Piece],
    kept: torch.Tensor,
    bits: float,
    values: int,
    row_importance: torch.Tensor,
    taps: int | None,
) -> Scaled:
    """The weight in about so many bits, which are expected first and then corrected once."""
    curve = steps_of(pieces, row_importance, 1.0, taps).curve(weight * kept, values)
    wanted = bits
    for _ in range(2):
        penalty = max(curve.penalty_for(wanted), 1e-60)
        steps = steps_of(pieces, row_importance, penalty, taps)
        made = rate_sweeps(weight, pieces, kept, penalty, values, steps, row_importance)
        found = made.entropy()
        if abs(found - bits) < 0.02 * bits:
            break
        wanted = max(0.0, wanted + bits - found)
    return made


def by_rate(settings: LayerConfig) -> bool:
    """Whether the settings have codes chosen by error and rate."""
    return settings.prune and settings.kind.startswith("shared")


def compensate(
    weight: torch.Tensor,
    pieces: list[Piece],
    settings: LayerConfig,
    name: str = "weight",
    row_importance: torch.Tensor | None = None,
    taps: int | None = 1,
) -> Scaled:
    """Prunes and quantizes a weight with error compensation.

    Args:
        weight: float32 ``[groups, rows, inputs]``.
        pieces: the pieces that make up the weight.
        settings: density or threshold, and the quantizer's settings; weights of the plain kinds are
            pruned only.
        name: for messages.
        row_importance: where codes are chosen by error and rate, how much a squared error counts in
            each row, ``[groups, rows]``; None = all alike.
        taps: as of :func:`tersor.calibration.rates.steps_of`.
    """
    kept = torch.from_numpy(kept_by(weight.cpu().numpy(), settings)).to(weight.device)
    count = int(kept.sum())
    if by_rate(settings) and count > 0:
        values = codebook_size_of(settings, 2)
        if row_importance is None:
            row_importance = torch.ones_like(weight[:, :, 0])
        if settings.penalty is not None:
            steps = steps_of(pieces, row_importance, max(settings.penalty, 1e-60), taps)
            return rate_sweeps(
                weight, pieces, kept, settings.penalty, values, steps, row_importance
            )
        bits = entropy_of_settings(settings, values)
        return _at_rate(weight, pieces, kept, bits, values, row_importance, taps)
    importance = importance_of(weight, pieces)
    # How many weights each part keeps goes by what pruning them alone would cost.
    cost = torch.where(weight != 0, weight**2 * importance, -1.0)
    wanted = largest(cost, count)
    pruned = torch.empty_like(weight)
    for piece in pieces:
        piece.of(pruned).copy_(prune_sweep(piece.of(weight), piece, piece.of(wanted)))
    if not settings.kind.startswith("shared") or count == 0:
        return Scaled(pruned)
    mask = (pruned != 0).cpu().numpy()
    made = quantize_weight(pruned.cpu().numpy(), mask, settings, name, importance.cpu().numpy())
    entries = torch.from_numpy(made.values).to(weight.device)
    if not made.codes[mask].all():  # integers, of which 0 is one
        entries = torch.cat([entries, entries.new_zeros(1)]).sort()[0]
    quantized = torch.empty_like(weight)
    for piece in pieces:
        rounder = _NearestEntry(entries, piece.of(pruned) != 0)
        piece.of(quantized).copy_(sweep(piece.of(weight), piece.root, rounder.quantize))
    return Scaled(quantized)
