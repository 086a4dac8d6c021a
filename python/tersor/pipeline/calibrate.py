"""An optional stage: weights that are pruned and quantized with their errors compensated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from tersor.calibration.compensation import compensate_
from tersor.pipeline.quantize import exact
from tersor.pipeline.records import WeightRecord


@torch.no_grad()
def calibrate_(
    model: nn.Module,
    records: Sequence[WeightRecord],
    data: Iterable[Any],
    progress: Callable[[str], None] | None = None,
) -> None:
    """Prunes and quantizes the weights in place, error compensated; the records keep the values.

    Layers that no input reaches keep their weights and their settings.

    Raises:
        ValueError: as :func:`tersor.calibration.compensation.compensate_`.
    """
    for record in records:
        record.keep()
    settings = {record.module: (record.label, record.settings) for record in records}
    reached = compensate_(model, data, settings, progress)
    for record in records:
        if record.module in reached:
            record.settings = exact(record.settings)
