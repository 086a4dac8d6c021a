"""The canonical sparse format: codes, and gaps as relative column indices.

Source: Han et al., Deep Compression (arXiv 1510.00149), section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tersor import _core


@dataclass(frozen=True, eq=False)
class RelativeCsr:
    """A pruned and quantized matrix as codes with relative indices, without its codebook.

    Attributes:
        rows, cols: the shape of the matrix.
        index_bits: width of a gap, 2 to 8.
        flat: gaps continue across rows (as in the paper) instead of restarting at each row.
        codes: uint8 ``[entries]``; 0 marks a filler.
        gaps: uint8 ``[entries]``, number of zeros before each entry.
        row_lengths: uint32 ``[rows]``, number of entries of each row; empty if flat.
    """

    rows: int
    cols: int
    index_bits: int
    flat: bool
    codes: npt.NDArray[np.uint8]
    gaps: npt.NDArray[np.uint8]
    row_lengths: npt.NDArray[np.uint32]

    def parts(
        self,
    ) -> tuple[
        int, int, int, bool, npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint32]
    ]:
        """The fields in the order of the compiled core's arguments."""
        return (
            self.rows,
            self.cols,
            self.index_bits,
            self.flat,
            self.codes,
            self.gaps,
            self.row_lengths,
        )


@dataclass(frozen=True)
class EntryCount:
    """Number of stored entries, and how many of them are fillers."""

    entries: int
    fillers: int


def _as_codes(codes: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    array = np.asarray(codes)
    if array.dtype != np.uint8:
        raise ValueError(f"codes must be uint8, not {array.dtype}")
    return np.ascontiguousarray(array)


def encode(codes: npt.ArrayLike, index_bits: int, *, flat: bool = False) -> RelativeCsr:
    """Encodes a matrix of codes.

    Args:
        codes: uint8 ``[rows, cols]``; 0 = pruned.
        index_bits: width of a gap, 2 to 8; longer runs of zeros are bridged by fillers.
        flat: let gaps continue across rows, without row lengths.

    Raises:
        ValueError: the dtype, the number of dimensions or ``index_bits`` is out of range.
    """
    return RelativeCsr(*_core.csr_encode(_as_codes(codes), index_bits, flat))


def decode(csr: RelativeCsr, *, believed: int | None = None) -> npt.NDArray[np.uint8]:
    """The matrix of codes, uint8 ``[rows, cols]``.

    Args:
        csr: the entries.
        believed: number of elements that a matrix may have whatever its entries; a larger one is
            rejected, before it is allocated, where it has more than 256 per entry and row length.
            None = an eighth of this machine's memory in bytes: as a dense float32 weight it would
            take half of the memory.

    Raises:
        FormatError: the entries violate a rule of the format (the message names the entry), or the
            matrix is larger than that.
    """
    return _core.csr_decode(*csr.parts(), believed)


def validate(csr: RelativeCsr) -> int:
    """Validates the entries and returns the number of non-zeros.

    Raises:
        FormatError: the entries violate a rule of the format; the message names the entry.
    """
    return _core.csr_validate(*csr.parts())


def count_entries(codes: npt.ArrayLike, index_bits: int, *, flat: bool = False) -> EntryCount:
    """The number of entries :func:`encode` would store; takes the same arguments."""
    return EntryCount(*_core.csr_count_entries(_as_codes(codes), index_bits, flat))


def filler_count(csr: RelativeCsr) -> int:
    """Number of entries that only bridge a run of zeros."""
    return int(np.count_nonzero(csr.codes == 0))
