"""What each layer of a file costs, counted on its real streams, in the columns of Deep Compression.

Two accountings stand side by side. *Paper accounting* (Han et al., arXiv 1510.00149, tables 2 to 5)
counts the weight codes, the index gaps and an fp32 codebook of 2^bits values for each layer, and
neither Huffman tables nor biases. *File bytes* counts everything on the disk: headers, tables,
hashes, biases and all. P+Q is the pruned and shared form with fixed widths, P+Q+H the same after
Huffman coding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tersor.codec.blob import SUFFIX, BlobInfo, inspect_blob
from tersor.io import container

if TYPE_CHECKING:
    from rich.table import Table

_FLOATS = {"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"}


@dataclass(frozen=True)
class LayerRow:
    """A row of the table. Bits are per stored entry, fillers included; rates are parts of fp32.

    ``paper_bits_pq`` and ``paper_bits_pqh`` are the whole layer in paper accounting. Where a layer
    is stored by rows, its coded row lengths count in both: without them the gaps say nothing.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
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
    blob_bytes: int


@dataclass(frozen=True)
class Totals:
    """Sums over a file.

    ``dense_bytes`` is what the network takes in fp32: 4 x all parameters, biases included (integer
    buffers at their own size). ``ratio_file`` is ``dense_bytes / file_bytes``. The paper's ratios
    are the inverse of the rates: what it leaves out (biases) is left out on both sides.
    """

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
    dense_bytes: int
    blob_bytes: int
    other_bytes: int  # of tensors that stay as they are
    header_bytes: int  # of the file
    file_bytes: int
    ratio_paper_pq: float
    ratio_paper: float
    ratio_file: float


@dataclass(frozen=True)
class Report:
    """The rows of the compressed layers in the order of the file, and the totals."""

    rows: tuple[LayerRow, ...]
    totals: Totals


def layer_row(name: str, info: BlobInfo) -> LayerRow:
    """The table's row of one layer, from the counts of its blob."""
    if info.clusters > 0:
        width = math.ceil(math.log2(info.clusters + 1))
        codebook = 32 << width
        values = 0
    elif info.kind in ("plain_fp32", "plain_fp16"):
        # Pruned but not shared: fixed widths store a value in each entry, fillers included. Coded,
        # only non-zeros have a value, and the code stream tells them from fillers.
        width = 32 if info.kind == "plain_fp32" else 16
        codebook = 0
        values = 8 * info.value_bytes
    else:
        width, codebook, values = 0, 0, 0  # shared, and nothing left to share
    row_lengths = 8 * info.row_length_bytes
    bits_pq = info.entries * (width + info.index_bits) + codebook + row_lengths
    bits_pqh = info.code_bits + values + info.gap_bits + codebook + row_lengths
    return LayerRow(
        name=name,
        shape=tuple(info.shape),
        weights=info.weights,
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
        blob_bytes=info.total_bytes,
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
    rows = []
    other_bytes = other_parameters = other_dense = 0
    for name, tensor in file.tensors.items():
        info = inspect_blob(tensor.bytes()) if tensor.compressed else None
        if info is not None and not info.is_vector:
            rows.append(layer_row(name.removesuffix(SUFFIX), info))
            continue
        # The paper's accounting leaves biases out, coded ones too.
        other_bytes += tensor.nbytes
        if info is not None or tensor.dtype in _FLOATS:
            elements = math.prod(tensor.shape) if info is None else info.weights
            other_parameters += elements
            other_dense += 4 * elements
        else:
            other_dense += tensor.nbytes
    return Report(
        tuple(rows), _totals(rows, other_bytes, other_parameters, other_dense, file.file_bytes)
    )


def _totals(
    rows: Sequence[LayerRow],
    other_bytes: int,
    other_parameters: int,
    other_dense: int,
    file_bytes: int,
) -> Totals:
    weights = sum(row.weights for row in rows)
    nonzeros = sum(row.nonzeros for row in rows)
    entries = sum(row.entries for row in rows)
    bits_pq = sum(row.paper_bits_pq for row in rows)
    bits_pqh = sum(row.paper_bits_pqh for row in rows)
    blob_bytes = sum(row.blob_bytes for row in rows)
    dense_bytes = 4 * weights + other_dense

    def mean(column: str) -> float:  # per stored entry, so weighted with them
        return _ratio(sum(getattr(row, column) * row.entries for row in rows), entries)

    return Totals(
        weights=weights,
        parameters=weights + other_parameters,
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
        dense_bytes=dense_bytes,
        blob_bytes=blob_bytes,
        other_bytes=other_bytes,
        header_bytes=file_bytes - blob_bytes - other_bytes,
        file_bytes=file_bytes,
        ratio_paper_pq=_ratio(32 * weights, bits_pq),
        ratio_paper=_ratio(32 * weights, bits_pqh),
        ratio_file=_ratio(dense_bytes, file_bytes),
    )


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0


# ---- Rendering

_HEADINGS = (
    "layer", "#weights", "density", "wbits P+Q", "P+Q+H",
    "ibits P+Q", "P+Q+H", "rate P+Q", "P+Q+H", "bytes",
)  # fmt: skip


def _cells(name: str, row: LayerRow | Totals) -> tuple[str, ...]:
    return (
        name,
        f"{row.weights:,}",
        f"{row.density:.1%}",
        f"{row.weight_bits_pq:.3g}",
        f"{row.weight_bits_pqh:.2f}",
        f"{row.index_bits_pq:.3g}",
        f"{row.index_bits_pqh:.2f}",
        f"{row.rate_pq:.2%}",
        f"{row.rate_pqh:.2%}",
        f"{row.blob_bytes:,}",
    )


def totals_lines(totals: Totals) -> list[str]:
    """The two accountings, a line each."""
    return [
        f"paper accounting: {4 * totals.weights:,} -> {totals.paper_bytes_pqh:,} bytes, "
        f"{totals.ratio_paper:.1f}x  (P+Q alone {totals.paper_bytes_pq:,}, "
        f"{totals.ratio_paper_pq:.1f}x)",
        f"file bytes:       {totals.dense_bytes:,} -> {totals.file_bytes:,} bytes, "
        f"{totals.ratio_file:.1f}x  (layers {totals.blob_bytes:,}, other tensors "
        f"{totals.other_bytes:,}, header {totals.header_bytes:,})",
    ]


def to_text(report: Report) -> str:
    """The table and the totals as plain text; needs nothing but Python."""
    lines = [_HEADINGS, *(_cells(row.name, row) for row in report.rows)]
    lines.append(_cells("total", report.totals))
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADINGS))]
    text = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    rule = "-" * max(len(line) for line in text)
    return "\n".join([text[0], rule, *text[1:-1], rule, text[-1], "", *totals_lines(report.totals)])


def to_table(report: Report, title: str = "") -> Table:
    """The table for a ``rich`` console (extra ``cli``), without the totals' lines."""
    from rich.table import Table

    table = Table(title=title or None)
    for i, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="left" if i == 0 else "right", no_wrap=True)
    for row in report.rows:
        table.add_row(*_cells(row.name, row))
    table.add_section()
    table.add_row(*_cells("total", report.totals), style="bold")
    return table


def to_json(report: Report) -> dict[str, Any]:
    """``{"layers": [row, …], "totals": {…}}`` with the fields of the dataclasses."""
    return {
        "layers": [dataclasses.asdict(row) for row in report.rows],
        "totals": dataclasses.asdict(report.totals),
    }
