"""What every method asks of its input, for numpy arrays and torch tensors alike."""

from __future__ import annotations

import math
from typing import Any


def check_finite(values: Any, name: str, what: str = "weight") -> None:
    """Refuses numbers that are not finite.

    Raises:
        ValueError: ``values`` hold NaN or infinity; the message has the name.
    """
    # NaN passes through min and max, so that no array of flags is made.
    if math.prod(values.shape) and not math.isfinite(float(values.max()) - float(values.min())):
        raise ValueError(f"{name}: the {what} holds NaN or infinite values")
