"""An optional stage: weights that are pruned and quantized with their errors compensated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from tersor._validation import as_float32
from tersor.calibration.compensation import compensate_
from tersor.config import LayerConfig
from tersor.pipeline.quantize import exact
from tersor.pipeline.records import WeightRecord
from tersor.quantizers.choose import own_codebook


@torch.no_grad()
def calibrate_(
    model: nn.Module,
    records: Sequence[WeightRecord],
    data: Iterable[Any],
    progress: Callable[[str], None] | None = None,
) -> None:
    """Prunes and quantizes the weights in place, error compensated; the records keep the values.

    Layers that no input reaches keep their weights and their settings, and so do those that have a
    codebook already and are not to be pruned.

    Raises:
        ValueError: as :func:`tersor.calibration.compensation.compensate_`.
    """
    for record in records:
        record.keep()
    settings = {
        module: (name or record.label, own)
        for record in records
        if record.handler.has_samples and (own := _settings_of(record)) is not None
        for name, module in record.places.items()
    }
    reached = compensate_(model, data, settings, progress)
    for record in records:
        if not reached.isdisjoint(record.places.values()):
            record.settings = exact(record.settings)


def _settings_of(record: WeightRecord) -> LayerConfig | None:
    """The settings that a weight is quantized by; None = it is to stay as it is.

    A weight with a codebook gets no smaller one.
    """
    settings = record.settings
    if not settings.kind.startswith("shared"):
        return settings
    weight = as_float32(record.parameter, record.label)
    own = own_codebook(weight[weight != 0], settings, weight.ndim)
    if own is None:
        return settings
    if settings.density is None and settings.threshold is None:
        return None
    return dataclasses.replace(settings, codebook_size=max(1, len(own[0])))
