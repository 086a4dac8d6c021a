"""An optional stage: the settings of each layer for a file size or an accuracy."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from tersor._validation import as_float32
from tersor.calibration.compensation import whole_errors
from tersor.config import Config, LayerConfig
from tersor.io.checkpoint import file_bytes
from tersor.pipeline.calibrate import calibrate_
from tersor.pipeline.encode import encode
from tersor.pipeline.quantize import quantize
from tersor.pipeline.records import Selection, WeightRecord
from tersor.pipeline.select import tensor_bytes
from tersor.pipeline.swap import compressed_modules, swapped
from tersor.search import rate_distortion

Evaluate = Callable[[nn.Module], float]


class _Trial:
    """What a model would be with other settings: its file's bytes, or its accuracy."""

    def __init__(
        self,
        model: nn.Module,
        selection: Selection,
        config: Config,
        evaluate: Evaluate | None,
        data: Iterable[Any] | None,
    ) -> None:
        self.model, self.records, self.config = model, selection.records, config
        self.evaluate, self.data = evaluate, data

    def measure(self, chosen: Mapping[str, LayerConfig]) -> float:
        """What the target is about, of a model that is really compressed by these settings."""
        settings = {record: record.settings for record in self.records}
        try:
            for record in self.records:
                record.settings = chosen[record.name]
            if self.data is not None:
                calibrate_(self.model, self.records, self.data)
            for record in self.records:
                quantize(record)
                encode(record)
            swaps = compressed_modules(self.records, self.config.biases)
            with swapped(self.model, swaps) as compressed:
                if self.config.max_drop is not None:
                    assert self.evaluate is not None
                    return accuracy(compressed, self.evaluate)
                return float(file_bytes(compressed, self.config))
        finally:
            for record in self.records:
                record.restore()
                record.settings = settings[record]

    def limit(self) -> float:
        """What may be measured at most, or at least."""
        if self.config.max_drop is not None:
            assert self.evaluate is not None
            return accuracy(self.model, self.evaluate) - self.config.max_drop
        if self.config.target_ratio is not None:
            return tensor_bytes(self.model) // self.config.target_ratio
        return float(self.config.target_bytes or 0)


@torch.no_grad()
def accuracy(model: nn.Module, evaluate: Evaluate) -> float:
    """What a user's function says of a model."""
    return float(evaluate(model))


def search(
    model: nn.Module,
    selection: Selection,
    config: Config,
    evaluate: Evaluate | None = None,
    data: Iterable[Any] | None = None,
    progress: Callable[[rate_distortion.Step], None] | None = None,
) -> None:
    """Gives each record the settings that meet the configuration's target.

    Raises:
        ValueError: nothing meets the target; or importance is given for some layers alone, or
            together with calibration inputs; or no calibration input reaches a layer.
    """
    records = selection.records
    if not records:
        raise ValueError("no layer of this model can be compressed, so that no target can be met")
    trial = _Trial(model, selection, config, evaluate, data)
    layers: list[rate_distortion.SearchLayer]
    if data is not None:
        layers = _compensated(model, records, data)
    else:
        weighted = any(record.importance is not None for record in records)
        layers = []
        for record in records:
            if weighted and record.importance is None:
                raise ValueError(
                    f"{record.label}: importance is missing, and layers are weighed by it"
                )
            weight = as_float32(record.parameter, record.label)
            item = rate_distortion.Item(weight, record.settings, record.importance)
            layers.append(rate_distortion.WeightLayer(record.name, item))
    size = config.max_drop is None
    found = rate_distortion.search(
        layers, trial.measure, trial.limit(), size=size, progress=progress
    )
    for record in records:
        record.settings = found[record.name]


def _compensated(
    model: nn.Module, records: list[WeightRecord], data: Iterable[Any]
) -> list[rate_distortion.SearchLayer]:
    """The layers where errors are compensated, which each step of the search does."""
    if any(record.importance is not None for record in records):
        raise ValueError("give either importance or calibration inputs")
    modules: dict[str, Any] = {record.name: record.module for record in records}
    for record in records:
        as_float32(record.parameter, record.label)  # finite
    errors = whole_errors(model, modules, data)
    if missed := [record.label for record in records if record.name not in errors]:
        raise ValueError(f"{missed[0]}: no calibration input reaches it")
    return [
        rate_distortion.Compensated(
            record.name, record.parameter.numel(), record.settings, errors[record.name]
        )
        for record in records
    ]


def with_settings(config: Config, records: Iterable[WeightRecord]) -> Config:
    """The configuration without a target, with each record's settings as an override."""
    own = {glob.escape(name): record.settings for record in records for name in record.places}
    others = [(name, settings) for name, settings in config.named_overrides if name not in own]
    return dataclasses.replace(
        config,
        overrides=(*own.items(), *others),
        density=None,
        target_bytes=None,
        target_ratio=None,
        max_drop=None,
    )
