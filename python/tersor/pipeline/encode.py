"""Stage 4, encode: the blob of each weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tersor.codec.blob import encode_blob, inspect_blob
from tersor.pipeline.quantize import quantize
from tersor.pipeline.records import Selection, WeightRecord


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
        if record.grows:
            record.restore()


def leave_what_grows(selection: Selection) -> None:
    """Takes the weights out of the selection whose blobs are not smaller, and says why."""
    for record in selection.records:
        assert record.blob is not None
        if record.grows:
            why = f"would not get smaller ({len(record.blob):,} bytes of {record.dense_bytes:,})"
            selection.left.update(dict.fromkeys(record.places, why))
    selection.records[:] = [record for record in selection.records if not record.grows]
