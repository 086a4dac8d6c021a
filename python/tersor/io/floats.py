"""Stored floats of every width as float32 arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def _bf16(raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


FLOAT_READERS = {
    "F16": lambda raw: raw.view("<f2").astype(np.float32),
    "F32": lambda raw: raw.view("<f4"),
    "F64": lambda raw: raw.view("<f8").astype(np.float32),
    "BF16": _bf16,
}
