"""Stored floats of every width from and to float32 arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Raw = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def _from_bf16(raw: Raw) -> Floats:
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _to_bf16(values: Floats) -> Raw:
    """To the nearest, ties to even, as torch rounds; NaN stays NaN."""
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet_nan = (bits >> 16) | 0x40
    return np.where(np.isnan(values), quiet_nan, rounded).astype("<u2").view(np.uint8)


FLOAT_READERS: dict[str, Callable[[Raw], Floats]] = {
    "F16": lambda raw: raw.view("<f2").astype(np.float32),
    "F32": lambda raw: raw.view("<f4"),
    "F64": lambda raw: raw.view("<f8").astype(np.float32),
    "BF16": _from_bf16,
}

_WRITERS: dict[str, Callable[[Floats], Raw]] = {
    "F16": lambda values: values.astype("<f2").view(np.uint8),
    "F32": lambda values: values.astype("<f4").view(np.uint8),
    "F64": lambda values: values.astype("<f8").view(np.uint8),
    "BF16": _to_bf16,
}


def to_stored(values: Floats, dtype: str, name: str) -> Raw:
    """Numbers as the bytes of a float type: uint8 ``[n]`` from float32 of any shape.

    Args:
        dtype: ``F16``, ``BF16``, ``F32`` or ``F64``.
        name: of the tensor, for messages.

    Raises:
        ValueError: a finite number is too large for the type, or the type is another.
    """
    if dtype not in _WRITERS:
        raise ValueError(
            f"{name}: numbers cannot be written as {dtype} (see {', '.join(_WRITERS)})"
        )
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    with np.errstate(over="ignore"):
        raw = _WRITERS[dtype](flat)
        overflows = np.isinf(FLOAT_READERS[dtype](raw)) & np.isfinite(flat)
    if overflows.any():
        raise ValueError(f"{name}: holds {flat[overflows][0]:g}, which is too large for {dtype}")
    return raw
