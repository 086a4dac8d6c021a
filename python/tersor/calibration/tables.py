"""Tables whose rows are looked up: uniform steps with the rate in the decision.

An input takes one row, so that no error of a row can make up for that of another: there are no
second moments to compensate with. A squared error in all rows costs what the model's output changes
by it, which is shared by all rows: the penalty of a weight is rows / slope.
"""

from __future__ import annotations

import torch

from tersor.calibration.curves import RateCurve, best_codes, step_at
from tersor.calibration.rates import Scaled, narrow


def table_curve(weight: torch.Tensor, values: int) -> RateCurve:
    """Bits at a penalty, which is squared error of a weight for a bit."""
    return RateCurve(weight / step_at(1.0), values)


def quantize_table(weight: torch.Tensor, penalty: float, values: int) -> Scaled:
    """The table in at most ``values`` non-zero codebook entries, multiples of a step.

    Args:
        weight: float32 ``[rows, columns]``.
        penalty: squared error for a bit.
        values: 1 to 255.
    """
    codes, step = best_codes(weight.flatten(), max(step_at(penalty), 1e-30), values)
    return Scaled(narrow(codes).view(1, *weight.shape), step)
