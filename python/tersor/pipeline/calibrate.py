"""An optional stage: weights that are pruned and quantized with their errors compensated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import nn

from tersor._validation import as_float32
from tersor.calibration.allocation import WeightRate, row_importance, weight_rates
from tersor.calibration.blocks import Inputs
from tersor.calibration.compensation import compensate_
from tersor.calibration.quantize import by_rate
from tersor.calibration.slopes import output_slopes
from tersor.config import LayerConfig
from tersor.pipeline.quantize import exact
from tersor.pipeline.records import WeightRecord
from tersor.quantizers.choose import own_codebook


class Calibration:
    """A model and inputs that its weights are calibrated with, as often as a search wants.

    Args:
        model: dense, with the layers of the records.
        records: the weights.
        inputs: calibration inputs.
    """

    def __init__(self, model: nn.Module, records: Sequence[WeightRecord], inputs: Inputs) -> None:
        self.model, self.records, self.inputs = model, records, inputs

    @property
    def slope_share(self) -> float:
        """How far bits follow slopes rather than relative errors: all the way in conv. networks."""
        sizes = [(record.parameter.numel(), record.parameter.dim() > 2) for record in self.records]
        filters = sum(size for size, conv in sizes if conv)
        return 1.0 if 2 * filters > sum(size for size, _ in sizes) else 0.5

    @cached_property
    def _rows(self) -> dict[nn.Module, tuple[torch.Tensor, float]]:
        """By layer, the importance of its rows and its slope."""
        axes = {
            module: 1 - record.parameter.dim()
            for record in self.records
            for module in record.places.values()
        }
        slopes = output_slopes(self.model, axes, self.inputs)
        return {module: row_importance(own, self.slope_share) for module, own in slopes.items()}

    def rows(self) -> dict[nn.Module, torch.Tensor]:
        """By layer, how much an error in each row counts; of tied layers, over all places."""
        made = {}
        for record in self.records:
            known = [self._rows[m][0] for m in record.places.values() if m in self._rows]
            same = [rows for rows in known if len(rows) == len(record.parameter)]
            if same:
                made.update(dict.fromkeys(record.places.values(), sum(same) / len(same)))
        return made

    def slopes(self) -> dict[str, float]:
        """By the name of a weight, the geometric mean of the slopes of its rows."""
        return {
            record.name: sum(known)
            for record in self.records
            if (known := [self._rows[m][1] for m in record.places.values() if m in self._rows])
        }

    def rates(self) -> dict[str, WeightRate]:
        """By the name of a weight, its rate–distortion curve; those that inputs reach."""
        layers = {record.name: list(record.places.values()) for record in self.records}
        values = {record.name: record.settings.codebook_size or 255 for record in self.records}
        return weight_rates(self.model, layers, self.inputs, self.rows(), values)

    @torch.no_grad()
    def apply_(self, progress: Callable[[str], None] | None = None) -> None:
        """Prunes and quantizes the weights in place, compensated; the records keep the values.

        Layers that no input reaches keep their weights and their settings, and so do those that
        have a codebook already and are not to be pruned.

        Raises:
            ValueError: as :func:`tersor.calibration.compensation.compensate_`.
        """
        for record in self.records:
            record.keep()
        settings = {
            module: (name or record.label, own)
            for record in self.records
            if (own := _settings_of(record)) is not None
            for name, module in record.places.items()
        }
        rows = self.rows() if any(by_rate(own) for _, own in settings.values()) else None
        made = compensate_(
            self.model, self.inputs.batches, settings, progress, self.inputs.forward_fn, rows
        )
        for record in self.records:
            scaled = next((made[m] for m in record.places.values() if m in made), None)
            if scaled is not None:
                record.scaled = scaled
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
