"""Stage 4, encode: the blob of each weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from torch import nn

from tersor.codec.blob import encode_blob, inspect_blob
from tersor.pipeline.quantize import quantize
from tersor.pipeline.records import Selection, WeightRecord
from tersor.pipeline.select import leave_places


def encode(record: WeightRecord) -> None:
    """Encodes a quantized weight; of the record only the blob is kept."""
    assert record.quantized is not None
    record.blob = encode_blob(record.quantized)
    record.info = inspect_blob(record.blob)
    record.quantized = None


def quantize_and_encode(
    records: Sequence[WeightRecord], progress: Callable[[str], None] | None = None
) -> None:
    """Makes the blob of each weight; a layer that would grow gets back what it had.

    Raises:
        ValueError: as :func:`tersor.pipeline.quantize.quantize`.
    """
    for number, record in enumerate(records, 1):
        quantize(record)
        encode(record)
        assert record.blob is not None
        if progress is not None:
            progress(
                f"{number}/{len(records)} {record.label}: "
                f"{record.dense_bytes:,} -> {len(record.blob):,} bytes"
            )
        if record.grows and len(record.handler.shapes(record.module)) == 1:
            record.restore()


def leave_what_grows(selection: Selection) -> None:
    """Takes the weights out of the selection whose blobs are not smaller, and says why."""
    # Of a layer with several weights all count together.
    stored: Counter[nn.Module] = Counter()
    dense: Counter[nn.Module] = Counter()
    for record in selection.records:
        assert record.blob is not None
        for module in record.places.values():
            stored[module] += len(record.blob)
            dense[module] += record.dense_bytes
    for record in selection.records:
        for name, module in record.places.items():
            if stored[module] >= dense[module]:
                why = f"would not get smaller ({stored[module]:,} bytes of {dense[module]:,})"
                selection.left[name] = why
    leave_places(selection)
