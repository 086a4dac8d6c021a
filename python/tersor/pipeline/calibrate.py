"""An optional stage: weights that are pruned and quantized with their errors compensated."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from tersor._validation import as_float32
from tersor.calibration.allocation import WeightRate, row_importance, weight_rates
from tersor.calibration.blocks import Inputs
from tersor.calibration.compensation import compensate_
from tersor.calibration.quantize import by_rate
from tersor.calibration.refine import refine_, tuned_parameters
from tersor.calibration.slopes import output_slopes
from tersor.calibration.tables import quantize_table, table_curve
from tersor.calibration.trace import Block, Group
from tersor.config import LayerConfig
from tersor.nn.registry import handler_of
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
        self.layers = {
            record: {name: m for name, m in record.places.items() if multiplies(m)}
            for record in records
        }
        self._plan: list[Block | Group] | None = None

    @property
    def tables(self) -> list[WeightRecord]:
        """Weights whose errors are not compensated: looked up, or of recurrent layers."""
        return [record for record in self.records if not self.layers[record]]

    @property
    def slope_share(self) -> float:
        """How far bits follow slopes rather than relative errors: all the way in conv. networks."""
        products = [record for record in self.records if self.layers[record]]
        sizes = [(record.parameter.numel(), record.parameter.dim() > 2) for record in products]
        filters = sum(size for size, conv in sizes if conv)
        return 1.0 if 2 * filters > sum(size for size, _ in sizes) else 0.5

    @cached_property
    def _rows(self) -> dict[nn.Module, tuple[torch.Tensor, float]]:
        """By layer, the importance of its rows and its slope."""
        axes = {
            module: 1 - record.parameter.dim() if multiplies(module) else -1
            for record in self.records
            for module in record.places.values()
        }
        slopes = output_slopes(self.model, axes, self.inputs)
        return {module: row_importance(own, self.slope_share) for module, own in slopes.items()}

    def rows(self) -> dict[nn.Module, torch.Tensor]:
        """By layer, how much an error in each row counts; of tied layers, over all places."""
        made: dict[nn.Module, torch.Tensor] = {}
        for record in self.records:
            known = [self._rows[m][0] for m in self.layers[record].values() if m in self._rows]
            same = [rows for rows in known if len(rows) == len(record.parameter)]
            if same:
                made.update(dict.fromkeys(record.places.values(), torch.stack(same).mean(0)))
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
        layers = {r.name: list(own.values()) for r, own in self.layers.items() if own}
        values = {record.name: record.settings.codebook_size or 255 for record in self.records}
        rates, self._plan = weight_rates(self.model, layers, self.inputs, self.rows(), values)
        for record in self.tables:
            weight = record.parameter.detach().float()
            curve = table_curve(weight, values[record.name])
            power = float(weight.square().mean())
            rates[record.name] = WeightRate(weight.numel(), power, curve)
        return rates

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
        dense = {r.parameter: r.parameter.detach().clone() for r in self.tables}
        dense = {parameter: own for parameter, own in dense.items() if self._table_(parameter)}
        settings = {
            module: (name or record.label, own)
            for record, layers in self.layers.items()
            if layers and (own := _settings_of(record)) is not None
            for name, module in layers.items()
        }
        rows = self.rows() if any(by_rate(own) for _, own in settings.values()) else None
        made = compensate_(
            self.model,
            self.inputs.batches,
            settings,
            None if progress is None else self._with_time_left(progress),
            forward_fn=self.inputs.forward_fn,
            rows=rows,
            dense=dense,
            checkpoint_dir=self.inputs.checkpoint_dir,
            plan=self._plan,
            refine=self._refine_ if self.inputs.refine_steps else None,
        )
        for record, layers in self.layers.items():
            scaled = next((made[m] for m in layers.values() if m in made), None)
            if scaled is not None:
                record.scaled = scaled
                record.settings = exact(record.settings)

    def _refine_(self, block: nn.Module, run: Callable[[int], Any], targets: Sequence[Any]) -> None:
        """Tunes the norms and biases of a block that no other part of the model shares."""
        counts = Counter(
            id(p) for m in self.model.modules() for p in m._parameters.values() if p is not None
        )
        parameters = [p for p in tuned_parameters(block) if counts[id(p)] == 1]
        kept = {id(p) for record in self.records for p, _ in record.saved}
        for parameter in parameters:
            if id(parameter) not in kept:
                self.records[0].keep_too(parameter)
        refine_(parameters, run, targets, self.inputs.refine_steps)

    def _with_time_left(self, progress: Callable[[str], None]) -> Callable[[str], None]:
        """Takes names of layers, and says how far the work is and how long it will take."""
        started, done = time.monotonic(), 0
        sizes = {
            name or record.label: record.parameter.numel()
            for record, layers in self.layers.items()
            for name in layers
        }
        total = sum(sizes.values())

        def say(name: str) -> None:
            nonlocal done
            done += sizes.get(name, 0)
            left = (time.monotonic() - started) * (total / max(1, done) - 1)
            progress(f"{name}: {done / total:.0%} of the weights, about {left:.0f} s left")

        return say

    def _table_(self, parameter: nn.Parameter) -> bool:
        """Quantizes a weight that is looked up, if its settings choose codes by rate."""
        (record,) = (record for record in self.tables if record.parameter is parameter)
        settings = record.settings
        if not by_rate(settings) or (settings.penalty is None and settings.bits is None):
            return False
        weight = torch.from_numpy(as_float32(parameter, record.label)).to(parameter.device)
        values, penalty = settings.codebook_size or 255, settings.penalty
        if penalty is None:
            assert settings.bits is not None
            penalty = table_curve(weight, values).penalty_for(settings.bits)
        record.scaled = quantize_table(weight, penalty, values)
        record.settings = exact(settings)
        parameter.copy_(record.scaled.values.view_as(parameter))
        return True


def multiplies(module: nn.Module) -> bool:
    """Whether inputs are multiplied with a layer's weight, so that their statistics count."""
    handler = handler_of(module)
    return handler is not None and handler.multiplies


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
