"""An optional stage: the settings of each layer for a file size or an accuracy."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tersor._validation import as_float32
from tersor.calibration.allocation import WeightRate, penalty_scales
from tersor.config import Config, LayerConfig
from tersor.io.checkpoint import file_bytes
from tersor.pipeline.calibrate import Calibration
from tersor.pipeline.encode import quantize_and_encode
from tersor.pipeline.records import WeightRecord
from tersor.pipeline.select import tensor_bytes
from tersor.pipeline.swap import compressed_modules, swapped
from tersor.search import rate_distortion

Evaluate = Callable[[nn.Module], float]


@dataclass(frozen=True)
class Target:
    """What is measured of a compressed model, and the limit that it has to keep.

    Attributes:
        config: with a size or an accuracy.
        limit: the most bytes of the file, or the least accuracy.
        evaluate: of a model: its accuracy; None where the target is a size.
    """

    config: Config
    limit: float
    evaluate: Evaluate | None

    @property
    def goal(self) -> str | None:
        """The limit as the configuration gives it, where that is not in bytes."""
        ratio = self.config.target_ratio
        return None if ratio is None else f"target_ratio={ratio:g} ({self.limit:,.0f} bytes)"

    @torch.no_grad()
    def measure(self, model: nn.Module) -> float:
        """The accuracy of a model, or the bytes of its file."""
        if self.evaluate is not None:
            return float(self.evaluate(model))
        return float(file_bytes(model, self.config))

    def check(self, model: nn.Module) -> None:
        """Measures the final model.

        Raises:
            ValueError: it does not keep the limit.
        """
        found = self.measure(model)
        if self.evaluate is None and not found <= self.limit:
            raise ValueError(
                f"the file takes {found:,.0f} bytes, and the target allows {self.limit:,.0f}"
            )
        if self.evaluate is not None and not found >= self.limit:
            raise ValueError(
                f"the compressed model evaluates to {found:g}, and "
                f"max_drop={self.config.max_drop:g} allows no less than {self.limit:g}"
            )


@torch.no_grad()
def target_of(model: nn.Module, config: Config, evaluate: Evaluate | None) -> Target | None:
    """The target of a configuration for a model, which is evaluated dense; None = it has none."""
    if config.max_drop is not None:
        assert evaluate is not None
        return Target(config, float(evaluate(model)) - config.max_drop, evaluate)
    if config.target_ratio is not None:
        return Target(config, float(tensor_bytes(model) // config.target_ratio), None)
    if config.target_bytes is not None:
        return Target(config, float(config.target_bytes), None)
    return None


def search(
    model: nn.Module,
    records: Sequence[WeightRecord],
    target: Target,
    calibration: Calibration | None = None,
    progress: Callable[[rate_distortion.Step], None] | None = None,
) -> None:
    """Gives each record the settings that meet a target.

    Every attempt is measured on the model that is really compressed by its settings.

    Raises:
        ValueError: nothing meets the target; or importance is given for some layers alone, or
            together with calibration inputs; or no calibration input reaches a layer.
    """
    if not records:
        raise ValueError("no layer of this model can be compressed, so that no target can be met")
    given = {record: record.settings for record in records}

    def measure(chosen: Mapping[str, LayerConfig]) -> float:
        try:
            for record in records:
                record.settings = chosen[record.name]
            if calibration is not None:
                calibration.apply_()
            quantize_and_encode(records)
            with swapped(
                model, compressed_modules(model, records, target.config.biases)
            ) as compressed:
                return target.measure(compressed)
        finally:
            for record in reversed(records):
                record.restore()
                record.settings = given[record]

    layers = _weighted(records) if calibration is None else _compensated(calibration)
    size = target.evaluate is None
    found = rate_distortion.search(
        layers, measure, target.limit, size=size, progress=progress, goal=target.goal
    )
    for record in records:
        record.settings = found[record.name]


def _weighted(records: Sequence[WeightRecord]) -> list[rate_distortion.SearchLayer]:
    """The layers where errors count by importance, if that is given."""
    weighted = any(record.importance is not None for record in records)
    layers: list[rate_distortion.SearchLayer] = []
    for record in records:
        if weighted and record.importance is None:
            raise ValueError(f"{record.label}: importance is missing, and layers are weighed by it")
        weight = as_float32(record.parameter, record.label)
        item = rate_distortion.Item(weight, record.settings, record.importance)
        layers.append(rate_distortion.WeightLayer(record.name, item))
    return layers


def _compensated(calibration: Calibration) -> list[rate_distortion.SearchLayer]:
    """The layers where errors are compensated, which each step of the search does."""
    rates, scales = known_rates(calibration)
    return [
        rate_distortion.Compensated(
            record.name,
            record.parameter.numel(),
            record.settings,
            scales[record.name],
            rates[record.name].power * rates[record.name].size / scales[record.name],
        )
        for record in calibration.records
    ]


def known_rates(calibration: Calibration) -> tuple[dict[str, WeightRate], dict[str, float]]:
    """The rate of each weight by name, and its penalty at a Lagrange multiplier of 1.

    Raises:
        ValueError: importance is given as well, or no input reaches a layer.
    """
    records = calibration.records
    if any(record.importance is not None for record in records):
        raise ValueError("give either importance or calibration inputs")
    for record in records:
        as_float32(record.parameter, record.label)  # finite
    rates = calibration.rates()
    if missed := [record.label for record in records if record.name not in rates]:
        raise ValueError(f"{missed[0]}: no calibration input reaches it")
    tables = {record.name: len(record.parameter) for record in calibration.tables}
    share = calibration.slope_share
    return rates, penalty_scales(rates, calibration.slopes(), share, tables)


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
