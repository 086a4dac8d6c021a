"""The canonical sparse form: codes and gaps with relative indices.

Source: Han et al., Deep Compression (arXiv 1510.00149), section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tersor import _core


@dataclass(frozen=True, eq=False)
class RelativeCsr:
    """Codes of a pruned, weight-shared matrix; code 0 means "pruned".

    The codebook is kept elsewhere.

    Attributes:
        rows, cols: the shape of the matrix.
        index_bits: width of a gap, 2 to 8.
        flat: gaps run over the whole tensor (as in the paper) instead of restarting at each row.
        codes: uint8 ``[entries]``; 0 marks a filler.
        gaps: uint8 ``[entries]``, the zeros skipped before each entry.
        row_lengths: uint32 ``[rows]``, the entries of each row; empty when flat.
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
        """The fields in order, as the compiled core takes them."""
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
    """Stored entries, and how many of them are fillers."""

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
        index_bits: width of a gap, 2 to 8; longer runs of zeros take fillers.
        flat: let gaps run over the whole tensor, without row lengths.

    Raises:
        ValueError: the dtype, the number of dimensions or ``index_bits`` is out of range.
    """
    return RelativeCsr(*_core.csr_encode(_as_codes(codes), index_bits, flat))


def decode(csr: RelativeCsr) -> npt.NDArray[np.uint8]:
    """The matrix of codes, uint8 ``[rows, cols]``.

    Raises:
        FormatError: the entries break a rule of the form (the message names the entry), or announce
            a matrix of more than 2^28 elements and of more than 256 for each entry and row length.
    """
    return _core.csr_decode(*csr.parts())


def validate(csr: RelativeCsr) -> int:
    """Checks every rule of the form and returns the number of non-zeros.

    Raises:
        FormatError: the entries break a rule of the form; the message names the entry.
    """
    return _core.csr_validate(*csr.parts())


def count_entries(codes: npt.ArrayLike, index_bits: int, *, flat: bool = False) -> EntryCount:
    """What :func:`encode` would store, counted without storing it; arguments as there."""
    return EntryCount(*_core.csr_count_entries(_as_codes(codes), index_bits, flat))


def filler_count(csr: RelativeCsr) -> int:
    """Entries that only bridge a run of zeros."""
    return int(np.count_nonzero(csr.codes == 0))
