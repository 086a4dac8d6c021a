"""Codes of a weight chosen by error and rate, with a step for each row and each column.

At a Lagrange multiplier (squared error for a bit) the best step of a uniform quantizer is in
inverse proportion to the root of what an error costs (Gish and Pierce 1968, "Asymptotically
efficient quantizing"). An error in column j costs 1 / U_jj^2 after compensation, with U from
:func:`tersor.calibration.sweeps.inverse_root`; one in row r as much as the model's output changes
with it. Both are stored: a weight is row factor x codebook entry x column factor, factors being on
a grid of four to an octave. With these steps one more bit lowers the error by the same everywhere,
and a single table of codes fits all.

A code is the multiple of the step of the least error + lambda * bits, its bits being by how often
it occurred so far: lambda is ln 2 / 6 of the squared step, in the units of the error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tersor.calibration.curves import RateCurve, code_range, step_at
from tersor.calibration.sweeps import Piece, sweep
from tersor.codec.factors import round_factors

_FACTORS_PER_OCTAVE = 4


@dataclass(frozen=True)
class Scaled:
    """A weight as few values times factors.

    Attributes:
        codes: whole numbers, int8 or int16, or values in float32, ``[groups, rows, inputs]``.
        step: what a code is multiplied with.
        rows: float32 ``[groups, rows]``, or None where all are 1.
        columns: float32 ``[inputs]``, or None.
    """

    codes: torch.Tensor
    step: float = 1.0
    rows: torch.Tensor | None = None
    columns: torch.Tensor | None = None

    @property
    def values(self) -> torch.Tensor:
        """Without the factors, float32 ``[groups, rows, inputs]``."""
        return self.codes.float() * self.step

    def dense(self) -> torch.Tensor:
        """The weight, float32 ``[groups, rows, inputs]``."""
        made = self.values
        if self.rows is not None:
            made = made * self.rows[:, :, None]
        return made if self.columns is None else made * self.columns

    def entropy(self) -> float:
        """Of the codes, in bits for each."""
        _, counts = self.codes.unique(return_counts=True)
        shares = counts.double() / counts.sum()
        return float(-(shares * shares.log2()).sum())

    def tensors(self) -> dict[str, torch.Tensor]:
        """The fields by name, without those that are None."""
        step = torch.tensor(self.step, dtype=torch.float64)
        fields = {"codes": self.codes, "step": step, "rows": self.rows, "columns": self.columns}
        return {name: own for name, own in fields.items() if own is not None}

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor], device: torch.device) -> Scaled:
        """From what :meth:`tensors` gave."""
        rows, columns = (
            None if (own := tensors.get(name)) is None else own.to(device)
            for name in ("rows", "columns")
        )
        return cls(tensors["codes"].to(device), float(tensors["step"]), rows, columns)


def narrow(codes: torch.Tensor) -> torch.Tensor:
    """Whole numbers in float32 as int8, or int16 where they are too large."""
    small = codes.numel() == 0 or float(codes.abs().max()) < 128
    return codes.to(torch.int8 if small else torch.int16)


@dataclass(frozen=True)
class Steps:
    """The step of each weight: ``base * rows * columns``.

    Attributes:
        base: of the codebook's entries.
        rows: ``[groups, rows]``.
        columns: ``[inputs]``.
    """

    base: float
    rows: torch.Tensor
    columns: torch.Tensor

    @property
    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of rows and of columns."""
        return self.rows, self.columns

    def curve(self, weight: torch.Tensor, values: int) -> RateCurve:
        """Bits of a weight ``[groups, rows, inputs]``, these being the steps at a penalty of 1."""
        return RateCurve(weight / (self.base * self.of()), values)

    def of(self, part: slice = slice(None)) -> torch.Tensor:
        """The factors of some inputs, ``[groups, rows, inputs]``."""
        return self.rows[:, :, None] * self.columns[part]


def on_grid(logs: torch.Tensor) -> torch.Tensor:
    """Factors with about these binary logarithms, on the grid that they are stored on."""
    factors = torch.exp2(logs.clamp(-60.0, 60.0)).cpu().numpy()
    return torch.from_numpy(round_factors(factors, _FACTORS_PER_OCTAVE)).to(logs.device)


def steps_of(
    pieces: list[Piece],
    row_importance: torch.Tensor,
    penalty: float,
    taps: int | None = 1,
) -> Steps:
    """The best step of each weight at a penalty.

    Args:
        pieces: of the weight.
        row_importance: how much a squared error counts in each row, positive, ``[groups, rows]``.
        penalty: squared error for a bit.
        taps: how many columns, one after another, have one factor; None = there are no factors for
            columns, as with several groups.
    """
    certainty = torch.cat([piece.certainty() for piece in pieces], 1).double()
    logs = 0.5 * certainty.clamp(min=1e-300).log2()  # [groups, inputs]
    rows = -0.5 * row_importance.double().log2()
    if taps is None:
        columns = torch.zeros_like(logs[0])
        rows = rows + logs.mean(1, keepdim=True)
    else:
        columns = logs[0].view(-1, taps).mean(1).repeat_interleave(taps)
    base = 2.0 ** float(rows.mean() + columns.mean())
    return Steps(
        base * step_at(penalty),
        on_grid(rows - rows.mean()),
        on_grid(columns - columns.mean()),
    )


@dataclass
class _RateQuantizer:
    """Gives each weight of a piece the code of least error + lambda * code length.

    Attributes:
        codes: whole numbers as float32 ``[groups, rows, inputs]``, replaced column by column.
        allowed: bool, of the same shape: weights that may be non-zero.
        steps: of the weights, of the same shape.
        cost_of_error: of a squared error of a step, of the same shape.
        cost_of_code: lambda * code length of each code from ``low`` to ``high``.
    """

    codes: torch.Tensor
    allowed: torch.Tensor
    steps: torch.Tensor
    cost_of_error: torch.Tensor
    cost_of_code: torch.Tensor
    low: int
    high: int

    def quantize(self, column: torch.Tensor, i: int) -> torch.Tensor:
        step = self.steps[:, :, i]
        scaled = column / step
        # The best is between zero and the nearest, mostly beside one of the two.
        nearest = scaled.round().clamp_(self.low, self.high)
        inner = nearest - nearest.sign()
        tried = torch.stack([nearest, inner, inner - inner.sign(), torch.zeros_like(nearest)])
        error = scaled - tried
        length = self.cost_of_code[(tried - self.low).long()]
        cost = self.cost_of_error[:, :, i] * error * error + length
        best = tried.gather(0, cost.argmin(0, keepdim=True))[0] * self.allowed[:, :, i]
        self.codes[:, :, i] = best
        return best * step


def rate_sweeps(
    weight: torch.Tensor,
    pieces: list[Piece],
    kept: torch.Tensor,
    penalty: float,
    values: int,
    steps: Steps,
    row_importance: torch.Tensor,
) -> Scaled:
    """Prunes and quantizes a weight with error compensation and a rate term.

    Args:
        weight: float32 ``[groups, rows, inputs]``.
        pieces: the pieces that make up the weight.
        kept: bool ``[groups, rows, inputs]``: weights that may be non-zero.
        penalty: Lagrange multiplier: squared error per bit.
        values: maximum number of non-zero codebook entries.
        steps: of the weights.
        row_importance: how much a squared error counts in each row, ``[groups, rows]``.
    """
    factors = steps.of()
    base, low, high = code_range(weight / factors * kept, steps.base, values)
    codes = (weight / (base * factors)).round_().clamp_(low, high) * kept
    for _ in range(2):
        # By how often each code occurred so far; one that did not may be used yet.
        counts = torch.bincount((codes.flatten() - low).long(), minlength=high - low + 1)
        cost_of_code = -penalty * (counts.float().clamp(min=0.5) / codes.numel()).log2()
        for piece in pieces:
            own = base * piece.of(factors)
            cost = own**2 * row_importance[:, :, None] / piece.certainty()[:, None]
            # Columns in one piece, as those of the sweep.
            parts = (own, cost)
            own, cost = (p.transpose(1, 2).contiguous().transpose(1, 2) for p in parts)
            quantizer = _RateQuantizer(
                piece.of(codes), piece.of(kept), own, cost, cost_of_code, low, high
            )
            sweep(piece.of(weight), piece.root, quantizer.quantize)
    if high - low > values and len(codes.unique()) > values:
        # More codes than there may be: steps that the range of the weights asks for.
        wide = Steps(float((weight / factors)[kept].abs().max()) / (values // 2), *steps.factors)
        return rate_sweeps(weight, pieces, kept, penalty, values, wide, row_importance)
    return Scaled(narrow(codes), base, steps.rows, steps.columns)
