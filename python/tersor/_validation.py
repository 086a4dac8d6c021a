"""What every method asks of its input, for numpy arrays and torch tensors alike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt


def check_finite(values: Any, name: str, what: str = "weight") -> None:
    """Refuses numbers that are not finite.

    Raises:
        ValueError: ``values`` hold NaN or infinity; the message has the name.
    """
    # NaN passes through min and max, so that no array of flags is made.
    if math.prod(values.shape) and not math.isfinite(float(values.max()) - float(values.min())):
        raise ValueError(f"{name}: the {what} holds NaN or infinite values")


def as_float32(weight: Any, name: str) -> npt.NDArray[np.float32]:
    """A torch tensor or array of any float type as contiguous float32.

    Raises:
        ValueError: it is complex, or holds NaN or infinity; the message names the layer.
    """
    if str(getattr(weight, "dtype", "")).removeprefix("torch.").startswith("complex"):
        raise ValueError(f"{name}: complex weights cannot be compressed")
    if hasattr(weight, "detach"):
        weight = weight.detach().cpu().float().numpy()
    array = np.ascontiguousarray(weight, dtype=np.float32)
    if array.ndim == 0:
        raise ValueError(f"{name}: a weight needs one dimension at least")
    check_finite(array, name)
    return array
