"""Stage 2, prune: one density for all layers becomes a density for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tersor._validation import as_float32
from tersor.pipeline.records import WeightRecord
from tersor.pruning.magnitude import counts_of_largest


def spread_density(records: Sequence[WeightRecord], density: float) -> None:
    """Sets the density of each layer that has neither one nor a threshold of its own.

    So that over all of them the largest weights stay, ``round(density * weights)`` in number.
    Tables of embeddings are not among them.
    """
    free = [
        r
        for r in records
        if r.settings.density is None and r.settings.threshold is None and not r.is_table
    ]
    if not free:
        return
    total = sum(record.parameter.numel() for record in free)
    counts = counts_of_largest(
        [lambda r=record: as_float32(r.parameter, r.label) for record in free],  # type: ignore[misc]
        round(density * total),
    )
    for record, count in zip(free, counts, strict=True):
        own = count / max(1, record.parameter.numel())
        record.settings = dataclasses.replace(record.settings, density=own)
