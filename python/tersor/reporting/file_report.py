"""What each layer of a file costs, counted on its real streams.

Three accountings stand side by side. *File bytes* come first: all bytes on the disk (headers,
tables, hashes, biases) beside the bytes of the dense tensors in their own types. The *fp32
accounting* of the literature sets four bytes for each parameter beside the same file, whatever type
the model had. The *paper accounting* (Han et al., arXiv 1510.00149, tables 2 to 5) counts the
weight codes, the index gaps and an fp32 codebook of 2^bits values for each layer, and neither
Huffman tables nor biases: P+Q is the pruned and quantized form with fixed widths, P+Q+H the same
after Huffman coding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tersor._core import FormatError
from tersor.codec import lossless
from tersor.codec.blob import SUFFIX, BlobInfo, inspect_blob
from tersor.io import container, layer_records
from tersor.io.element_types import ELEMENT_BYTES

if TYPE_CHECKING:
    from rich.table import Table

_FLOATS = {"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"}


@dataclass(frozen=True)
class LayerRow:
    """A row of the table.

    ``dense_bytes`` is what the weight takes in its own type, ``dtype``; ``ratio`` that by the bytes
    of the blob. The rest is in the paper's accounting: bits are per stored entry, fillers included,
    and rates are parts of fp32. ``paper_bits_pq`` and ``paper_bits_pqh`` are those of the layer.
    Where it is stored by rows, its coded row lengths count in both: without them the gaps say
    nothing.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    weights: int
    dense_bytes: int
    blob_bytes: int
    ratio: float
    nonzeros: int
    entries: int
    density: float
    filler_factor: float  # entries / non-zeros
    weight_bits_pq: float
    weight_bits_pqh: float
    index_bits_pq: float
    index_bits_pqh: float
    paper_bits_pq: int
    paper_bits_pqh: int
    rate_pq: float
    rate_pqh: float


@dataclass(frozen=True)
class Totals:
    """Sums over a file.

    ``dense_bytes`` is what all tensors take in their own types, and ``ratio_file`` that by the
    bytes of the file. ``dense_bytes_fp32`` and ``ratio_fp32`` set four bytes for each parameter
    instead, biases included (integer buffers at their own size). The paper's ratios are the inverse
    of the rates: what it leaves out (biases) is left out on both sides.
    """

    dense_bytes: int
    file_bytes: int
    ratio_file: float
    dense_bytes_fp32: int
    ratio_fp32: float
    weights: int
    parameters: int
    nonzeros: int
    density: float
    weight_bits_pq: float
    weight_bits_pqh: float
    index_bits_pq: float
    index_bits_pqh: float
    rate_pq: float
    rate_pqh: float
    paper_bytes_pq: int
    paper_bytes_pqh: int
    blob_bytes: int
    other_bytes: int  # of tensors that stay as they are
    header_bytes: int  # of the file
    dense_bytes_of_layers: int
    ratio_paper_pq: float
    ratio_paper: float


@dataclass(frozen=True)
class Report:
    """The rows of the compressed layers in the order of the file, and the totals."""

    rows: tuple[LayerRow, ...]
    totals: Totals


def layer_row(name: str, info: BlobInfo, dtype: str = "F32") -> LayerRow:
    """The table's row of one layer, from the counts of its blob and the type of its weight."""
    if info.clusters > 0:
        width = math.ceil(math.log2(info.clusters + 1))
        codebook = 32 << width
        values = 0
    elif info.kind in ("plain_fp32", "plain_fp16"):
        # Pruned but not quantized: fixed widths store a value in each entry, fillers included.
        # Coded, only non-zeros have a value, and the code stream tells them from fillers.
        width = 32 if info.kind == "plain_fp32" else 16
        codebook = 0
        values = 8 * info.value_bytes
    else:
        width, codebook, values = 0, 0, 0  # quantized, and no weight is left
    row_lengths = 8 * info.row_length_bytes
    bits_pq = info.entries * (width + info.index_bits) + codebook + row_lengths
    bits_pqh = info.code_bits + values + info.gap_bits + codebook + row_lengths
    dense_bytes = ELEMENT_BYTES[dtype] * info.weights
    return LayerRow(
        name=name,
        shape=tuple(info.shape),
        dtype=dtype,
        weights=info.weights,
        dense_bytes=dense_bytes,
        blob_bytes=info.total_bytes,
        ratio=_ratio(dense_bytes, info.total_bytes),
        nonzeros=info.nonzeros,
        entries=info.entries,
        density=_ratio(info.nonzeros, info.weights),
        filler_factor=_ratio(info.entries, info.nonzeros),
        weight_bits_pq=float(width),
        weight_bits_pqh=_ratio(info.code_bits + values, info.entries),
        index_bits_pq=float(info.index_bits),
        index_bits_pqh=_ratio(info.gap_bits, info.entries),
        paper_bits_pq=bits_pq,
        paper_bits_pqh=bits_pqh,
        rate_pq=_ratio(bits_pq, 32 * info.weights),
        rate_pqh=_ratio(bits_pqh, 32 * info.weights),
    )


def report(file: container.File, *, verify: bool = False) -> Report:
    """Counts the bytes of every blob of an open file.

    Args:
        verify: check the hash of every blob and tensor too.

    Raises:
        FormatError: a blob or, with ``verify``, a hash is wrong.
    """
    if verify:
        file.verify()
    return report_tensors(stored_tensors(file), file.metadata, file.file_bytes, path=file.path)


def stored_tensors(file: container.File) -> dict[str, container.Tensor]:
    """The tensors of a file as they are stored, by their names in it."""
    return {
        view.stored_name: container.Tensor("U8", (view.nbytes,), view.stored())
        if view.lossless
        else container.Tensor(view.dtype, view.shape, view.stored())
        for view in file.tensors.values()
    }


def report_tensors(
    tensors: Mapping[str, container.Tensor],
    metadata: Mapping[str, str],
    file_bytes: int,
    *,
    path: object = "metadata",
) -> Report:
    """The same of tensors that are, or would be, the content of a file.

    Args:
        tensors: by name, as :func:`tersor.io.container.write_file` takes them.
        metadata: of the file; it has the types that compressed tensors had.
        file_bytes: the size of the file.
        path: for messages.

    Raises:
        FormatError: a blob or the metadata is malformed.
    """
    records = layer_records.read_records(metadata, path)
    rows = []
    others = _Others(0, 0, 0, 0)
    for name, tensor in sorted(tensors.items()):
        if tensor.is_lossless(name):
            others += _Others.lossless(tensor)
            continue
        info = inspect_blob(tensor.raw()) if tensor.is_blob(name) else None
        if info is not None and not info.is_vector:
            dense_name = name.removesuffix(SUFFIX)
            dtype = records.of(dense_name).dtype
            if dtype not in ELEMENT_BYTES:
                raise FormatError(f"{path}: '{dense_name}' was of the unknown type {dtype}")
            rows.append(layer_row(dense_name, info, dtype))
        else:
            others += _Others.of(tensor, info)
    return Report(tuple(rows), _totals(rows, others, file_bytes))


@dataclass(frozen=True)
class _Others:
    """Tensors that are no weights of compressed layers; the paper leaves them out."""

    stored: int
    dense: int
    dense_fp32: int
    parameters: int

    @staticmethod
    def of(tensor: container.Tensor, vector: BlobInfo | None) -> _Others:
        stored = tensor.raw().nbytes
        if vector is not None:  # a coded one stands for 32-bit floats
            return _Others(stored, 4 * vector.weights, 4 * vector.weights, vector.weights)
        if tensor.dtype in _FLOATS:
            elements = math.prod(tensor.shape)
            return _Others(stored, stored, 4 * elements, elements)
        return _Others(stored, stored, stored, 0)

    @staticmethod
    def lossless(tensor: container.Tensor) -> _Others:
        info = lossless.inspect(tensor.raw())
        if info.dtype not in _FLOATS:
            return _Others(tensor.nbytes, info.nbytes, info.nbytes, 0)
        elements = math.prod(info.shape)
        return _Others(tensor.nbytes, info.nbytes, 4 * elements, elements)

    def __add__(self, other: _Others) -> _Others:
        return _Others(
            self.stored + other.stored,
            self.dense + other.dense,
            self.dense_fp32 + other.dense_fp32,
            self.parameters + other.parameters,
        )


def _totals(rows: Sequence[LayerRow], others: _Others, file_bytes: int) -> Totals:
    weights = sum(row.weights for row in rows)
    nonzeros = sum(row.nonzeros for row in rows)
    entries = sum(row.entries for row in rows)
    bits_pq = sum(row.paper_bits_pq for row in rows)
    bits_pqh = sum(row.paper_bits_pqh for row in rows)
    blob_bytes = sum(row.blob_bytes for row in rows)
    dense_bytes = sum(row.dense_bytes for row in rows) + others.dense
    dense_bytes_fp32 = 4 * weights + others.dense_fp32

    def mean(column: str) -> float:  # per stored entry, so weighted with them
        return _ratio(sum(getattr(row, column) * row.entries for row in rows), entries)

    return Totals(
        dense_bytes=dense_bytes,
        file_bytes=file_bytes,
        ratio_file=_ratio(dense_bytes, file_bytes),
        dense_bytes_fp32=dense_bytes_fp32,
        ratio_fp32=_ratio(dense_bytes_fp32, file_bytes),
        weights=weights,
        parameters=weights + others.parameters,
        nonzeros=nonzeros,
        density=_ratio(nonzeros, weights),
        weight_bits_pq=mean("weight_bits_pq"),
        weight_bits_pqh=mean("weight_bits_pqh"),
        index_bits_pq=mean("index_bits_pq"),
        index_bits_pqh=mean("index_bits_pqh"),
        rate_pq=_ratio(bits_pq, 32 * weights),
        rate_pqh=_ratio(bits_pqh, 32 * weights),
        paper_bytes_pq=-(-bits_pq // 8),
        paper_bytes_pqh=-(-bits_pqh // 8),
        blob_bytes=blob_bytes,
        other_bytes=others.stored,
        header_bytes=file_bytes - blob_bytes - others.stored,
        dense_bytes_of_layers=dense_bytes - others.dense,
        ratio_paper_pq=_ratio(32 * weights, bits_pq),
        ratio_paper=_ratio(32 * weights, bits_pqh),
    )


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0


# ---- Rendering

# First real bytes beside real bytes; then the columns of the paper, whose rates are parts of fp32.
_HEADINGS = (
    "layer", "type", "#weights", "dense bytes", "bytes", "ratio", "density", "wbits P+Q", "P+Q+H",
    "ibits P+Q", "P+Q+H", "of fp32 P+Q", "P+Q+H",
)  # fmt: skip
_REAL_COLUMNS = _HEADINGS.index("density") + 1


def _cells(name: str, dtype: str, row: LayerRow | Totals) -> tuple[str, ...]:
    dense_bytes = row.dense_bytes if isinstance(row, LayerRow) else row.dense_bytes_of_layers
    return (
        name,
        dtype,
        f"{row.weights:,}",
        f"{dense_bytes:,}",
        f"{row.blob_bytes:,}",
        f"{_ratio(dense_bytes, row.blob_bytes):.1f}x",
        f"{row.density:.1%}",
        f"{row.weight_bits_pq:.3g}",
        f"{row.weight_bits_pqh:.2f}",
        f"{row.index_bits_pq:.3g}",
        f"{row.index_bits_pqh:.2f}",
        f"{row.rate_pq:.2%}",
        f"{row.rate_pqh:.2%}",
    )


def totals_lines(totals: Totals) -> list[str]:
    """The three accountings, a line each, that of real bytes first."""
    return [
        f"file bytes:       {totals.dense_bytes:,} -> {totals.file_bytes:,} bytes, "
        f"{totals.ratio_file:.1f}x  (tensors in their own types -> layers {totals.blob_bytes:,}, "
        f"other tensors {totals.other_bytes:,}, header {totals.header_bytes:,})",
        f"fp32 accounting:  {totals.dense_bytes_fp32:,} -> {totals.file_bytes:,} bytes, "
        f"{totals.ratio_fp32:.1f}x  (4 bytes for each of {totals.parameters:,} parameters)",
        f"paper accounting: {4 * totals.weights:,} -> {totals.paper_bytes_pqh:,} bytes, "
        f"{totals.ratio_paper:.1f}x  (fp32 weights of layers -> P+Q+H; P+Q alone "
        f"{totals.paper_bytes_pq:,}, {totals.ratio_paper_pq:.1f}x)",
    ]


def to_text(report: Report) -> str:
    """The table and the totals as plain text; needs nothing but Python."""
    lines = [_HEADINGS, *(_cells(row.name, row.dtype, row) for row in report.rows)]
    lines.append(_cells("total", "", report.totals))
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADINGS))]
    text = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    rule = "-" * max(len(line) for line in text)
    return "\n".join([text[0], rule, *text[1:-1], rule, text[-1], "", *totals_lines(report.totals)])


def to_table(report: Report, title: str = "", *, paper: bool = True) -> Table:
    """The table for a ``rich`` console (extra ``cli``), without the totals' lines.

    Args:
        report: what to show.
        title: above the table.
        paper: also show the columns of the paper's accounting.
    """
    from rich.table import Table

    headings = _HEADINGS if paper else _HEADINGS[:_REAL_COLUMNS]
    table = Table(title=title or None)
    for i, heading in enumerate(headings):
        # Where the terminal is narrow, names are folded and numbers are not cut.
        table.add_column(
            heading,
            justify="left" if i < 2 else "right",
            no_wrap=i > 0,
            overflow="fold" if i == 0 else "ellipsis",
        )
    for row in report.rows:
        table.add_row(*_cells(row.name, row.dtype, row)[: len(headings)])
    table.add_section()
    table.add_row(*_cells("total", "", report.totals)[: len(headings)], style="bold")
    return table


def to_json(report: Report) -> dict[str, Any]:
    """``{"layers": [row, …], "totals": {…}}`` with the fields of the dataclasses."""
    return {
        "layers": [dataclasses.asdict(row) for row in report.rows],
        "totals": dataclasses.asdict(report.totals),
    }
