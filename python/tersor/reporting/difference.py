"""What differs between two files, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tersor.codec.blob import SUFFIX
from tersor.codec.encode import decompress_weight
from tersor.io.container import File, TensorView
from tersor.io.floats import FLOAT_READERS


@dataclass(frozen=True)
class Difference:
    """A tensor of two files, by its dense name.

    Attributes:
        bytes_a, bytes_b: what it takes in each; None where it is not there.
        shape_a, shape_b: dense shapes.
        same: whether the stored bytes are the same.
        relative_error: Frobenius norm of b - a over that of a; None where they cannot be compared.
    """

    name: str
    bytes_a: int | None
    bytes_b: int | None
    shape_a: tuple[int, ...] | None
    shape_b: tuple[int, ...] | None
    same: bool = False
    relative_error: float | None = None

    @property
    def note(self) -> str:
        """In words, what cannot be told in numbers."""
        if self.shape_a is None or self.shape_b is None:
            return "only in the second" if self.shape_a is None else "only in the first"
        if self.shape_a != self.shape_b:
            return f"shape {list(self.shape_a)} and {list(self.shape_b)}"
        if self.same:
            return "same bytes"
        if self.relative_error == 0:
            return "same values"
        return "" if self.relative_error is not None else "no numbers to compare"


def differences(a: File, b: File) -> Iterator[Difference]:
    """Compares all tensors of two files, dense or compressed, in the order of their names.

    Raises:
        FormatError: a blob is malformed.
    """
    first, second = _by_dense_name(a), _by_dense_name(b)
    for name in sorted({*first, *second}):
        yield _compare(name, first.get(name), second.get(name))


def relative_errors(dense: File, compressed: File) -> dict[str, float]:
    """The errors of all compressed tensors that the other file has dense, by dense name."""
    return {
        found.name: found.relative_error
        for found in differences(dense, compressed)
        if found.relative_error is not None
    }


def _by_dense_name(file: File) -> dict[str, TensorView]:
    return {
        name.removesuffix(SUFFIX) if view.compressed else name: view
        for name, view in file.tensors.items()
    }


def _compare(name: str, a: TensorView | None, b: TensorView | None) -> Difference:
    if a is None or b is None:
        return Difference(
            name,
            None if a is None else a.nbytes,
            None if b is None else b.nbytes,
            None if a is None else _shape(a),
            None if b is None else _shape(b),
        )
    shape_a, shape_b = _shape(a), _shape(b)
    alike = a.compressed == b.compressed and a.dtype == b.dtype and shape_a == shape_b
    equal = alike and np.array_equal(a.bytes(), b.bytes())
    same = equal and a.lossless == b.lossless
    error = 0.0 if equal else None
    if not equal and shape_a == shape_b:
        error = _error(a, b)
    return Difference(name, a.nbytes, b.nbytes, shape_a, shape_b, same, error)


def _shape(view: TensorView) -> tuple[int, ...]:
    return tuple(view.layer().shape) if view.compressed else tuple(view.shape)


def _error(a: TensorView, b: TensorView) -> float | None:
    """Relative, in double; None where one is not of real numbers, or not finite."""
    x, y = _numbers(a), _numbers(b)
    if x is None or y is None:
        return None
    norm, off = float(np.linalg.norm(x)), float(np.linalg.norm(y - x))
    if not math.isfinite(norm) or not math.isfinite(off):
        return None
    return off / norm if norm else math.inf if off else 0.0


def _numbers(view: TensorView) -> npt.NDArray[np.float64] | None:
    """The values, float64 ``[n]``; None where the type is none of the usual floats."""
    if view.compressed:
        return decompress_weight(view.layer()).reshape(-1).astype(np.float64)
    if view.dtype == "F64":
        return np.array(view.bytes()).view("<f8")
    if view.dtype not in FLOAT_READERS:
        return None
    return FLOAT_READERS[view.dtype](view.bytes()).astype(np.float64)
