"""One self-contained HTML page about a compressed file: where its bytes go, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tersor.codec import lossless
from tersor.codec.blob import SUFFIX, BlobInfo, CompressedTensor, decode_blob, inspect_blob
from tersor.codec.huffman import code_lengths, entropy, histogram
from tersor.io.container import Tensor
from tersor.reporting.file_report import LayerRow, Totals, report_tensors

_TEMPLATE = Path(__file__).with_name("page.html.jinja")
_CHART = (480, 120)  # units of the pictures


@dataclass(frozen=True)
class Bars:
    """A histogram as the path of an SVG of 480 x 120 units.

    Attributes:
        path: of all bars.
        left, right: what stands below its ends.
        label: what it shows, for those who cannot see it.
    """

    path: str
    left: str
    right: str
    label: str


@dataclass(frozen=True)
class Symbol:
    """A row of a layer's Huffman table."""

    code: int
    value: str
    count: int
    length: int


@dataclass(frozen=True)
class PageLayer:
    """A layer of the page.

    Attributes:
        row: its row of the table.
        info: the parts of its blob.
        parts: names and bytes of those that are not empty.
        bits: stored, for each weight.
        entropy: of its codes, in bits for each stored one.
        codebook: how often each value occurs, at the values; None without a codebook.
        gaps: how often each distance to the entry before occurs; None where nothing is left.
        table: the most frequent codes with their lengths.
        error: relative to the norm of the dense weight; None where that is not known.
        dense_ms, compressed_ms: of one call, where that was measured.
    """

    row: LayerRow
    info: BlobInfo
    parts: tuple[tuple[str, int], ...]
    bits: float
    entropy: float
    codebook: Bars | None
    gaps: Bars | None
    table: tuple[Symbol, ...]
    error: float | None
    dense_ms: float | None
    compressed_ms: float | None


@dataclass(frozen=True)
class OtherTensor:
    """A tensor that is no compressed layer; it may be stored without loss in fewer bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    dense_bytes: int
    nbytes: int


def render(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    file_bytes: int,
    *,
    title: str,
    errors: Mapping[str, float] | None = None,
    times: Mapping[str, tuple[float, float]] | None = None,
) -> str:
    """The page of a file's content.

    Args:
        tensors: by name, as a file has them.
        metadata: of the file.
        file_bytes: its size.
        title: of the page.
        errors: by dense name of a weight, the norm of its error over that of the dense weight.
        times: by name of a layer, milliseconds of a call dense and compressed.

    Raises:
        FormatError: a blob or the metadata is malformed.
        ModuleNotFoundError: jinja2 is not installed (extra ``report``).
    """
    import jinja2

    found = report_tensors(tensors, metadata, file_bytes, path=title)
    layers = [
        _layer(row, tensors[row.name + SUFFIX], errors or {}, times or {}) for row in found.rows
    ]
    known = {row.name + SUFFIX for row in found.rows}
    others = [
        _other(name, tensor)
        for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].nbytes)
        if name not in known
    ]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["grouped"] = lambda number: f"{number:,}"
    template = environment.from_string(_TEMPLATE.read_text("utf-8"))
    return template.render(
        title=title,
        totals=found.totals,
        layers=layers,
        others=others,
        shares=_shares(layers, found.totals),
        chart=_CHART,
    )


def _other(name: str, tensor: Tensor) -> OtherTensor:
    if not tensor.is_lossless(name):
        return OtherTensor(name, tensor.dtype, tensor.shape, tensor.nbytes, tensor.nbytes)
    info = lossless.inspect(tensor.raw())
    dense = name.removesuffix(SUFFIX)
    return OtherTensor(dense, info.dtype, tuple(info.shape), info.nbytes, tensor.nbytes)


def _shares(layers: Sequence[PageLayer], totals: Totals) -> list[tuple[str, int, float]]:
    """Names, bytes and per cent of the file, of layers, other tensors and the header."""
    parts = [(layer.row.name, layer.row.blob_bytes) for layer in layers]
    parts += [("other tensors", totals.other_bytes), ("header", totals.header_bytes)]
    whole = max(1, totals.file_bytes)
    return [(name, nbytes, 100 * nbytes / whole) for name, nbytes in parts if nbytes]


def _layer(
    row: LayerRow,
    tensor: Tensor,
    errors: Mapping[str, float],
    times: Mapping[str, tuple[float, float]],
) -> PageLayer:
    info = inspect_blob(tensor.raw())
    content = decode_blob(tensor.raw())
    named = (
        ("codes", info.code_bytes),
        ("gaps", info.gap_bytes),
        ("row lengths", info.row_length_bytes),
        ("codebook or values", info.value_bytes),
        ("factors", info.factor_bytes),
        ("header", info.header_bytes),
    )
    counts = histogram(content.csr.codes)
    gaps = histogram(content.csr.gaps)[: 1 << info.index_bits]
    layer = row.name.rpartition(".")[0] or row.name
    dense_ms, compressed_ms = times.get(layer, (None, None))
    return PageLayer(
        row=row,
        info=info,
        parts=tuple((name, nbytes) for name, nbytes in named if nbytes),
        bits=8 * info.total_bytes / max(1, info.weights),
        entropy=entropy(counts),
        codebook=_codebook(content, counts) if content.shared and content.values.size else None,
        gaps=_bars(np.arange(gaps.size), gaps, "How often each gap occurs", "{:.0f}")
        if info.entries
        else None,
        table=_table(content, counts),
        error=errors.get(row.name),
        dense_ms=dense_ms,
        compressed_ms=compressed_ms,
    )


def _codebook(content: CompressedTensor, counts: npt.NDArray[np.uint64]) -> Bars:
    used = counts[1 : content.values.size + 1]
    return _bars(content.values, used, "How many weights have each value of the codebook", "{:.3g}")


def _bars(
    places: npt.NDArray[np.generic], heights: npt.NDArray[np.uint64], label: str, form: str
) -> Bars:
    """Bars of these heights at these places; a place with a count has a bar that can be seen."""
    width, height = _CHART
    x = np.asarray(places, np.float64)
    first, last = float(x.min()), float(x.max())
    left = 4 + (x - first) / max(last - first, 1e-30) * (width - 8)
    tall = np.where(heights > 0, np.maximum(heights / max(1, heights.max()) * height, 1), 0)
    path = "".join(
        f"M{at:.1f} {height}v{-bar:.1f}" for at, bar in zip(left, tall, strict=True) if bar > 0
    )
    return Bars(path, form.format(first), form.format(last), label)


def _table(content: CompressedTensor, counts: npt.NDArray[np.uint64]) -> tuple[Symbol, ...]:
    """All codes that occur, the most frequent first."""
    used = np.flatnonzero(counts)
    if used.size == 0 or not content.shared:
        return ()
    lengths = code_lengths(counts)
    book = content.codebook()
    order = used[np.argsort(-counts[used], kind="stable")]
    return tuple(
        Symbol(
            int(code),
            "filler" if code == 0 else f"{book[code]:.4g}",
            int(counts[code]),
            int(lengths[code]),
        )
        for code in order
    )
