"""Stage 4, encode: the blob of each weight; what would not get smaller stays dense."""

from __future__ import annotations

from tersor.codec.blob import encode_blob, inspect_blob
from tersor.pipeline.records import Selection, WeightRecord


def encode(record: WeightRecord) -> None:
    """Encodes a quantized weight; of the record only the blob is kept."""
    assert record.quantized is not None
    record.blob = encode_blob(record.quantized)
    record.info = inspect_blob(record.blob)
    record.quantized = None


def leave_what_would_grow(selection: Selection) -> None:
    """Takes the weights out whose blobs are not smaller than they are, and says why."""
    kept = []
    for record in selection.records:
        assert record.blob is not None
        if len(record.blob) < record.dense_bytes:
            kept.append(record)
            continue
        record.restore()
        for name in record.places:
            selection.left[name] = (
                f"would not get smaller ({len(record.blob):,} bytes of {record.dense_bytes:,})"
            )
    selection.records[:] = kept
