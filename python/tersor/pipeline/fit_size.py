"""An optional stage: weights calibrated for a file of a size, with few passes over the data.

The Lagrange multiplier of a size follows from the rates of the weights
(:mod:`tersor.calibration.allocation`). The model is compressed with it; what the file takes more or
less than was expected corrects the multiplier of the next try, by the secant of the tries. Three
are made, and more only where none of them keeps the limit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from tersor.calibration.allocation import WeightRate
from tersor.config import LayerConfig
from tersor.pipeline.calibrate import Calibration
from tersor.pipeline.encode import quantize_and_encode
from tersor.pipeline.records import WeightRecord
from tersor.pipeline.search import Target, known_rates
from tersor.pipeline.select import tensor_bytes
from tersor.pipeline.swap import compressed_modules, swapped

_TRIES = 3
_MORE = 6  # further ones where none of these keeps the limit
_CLOSE = 0.992  # fraction of the limit that is near enough
# What blobs take beside the entropies of their codes, where nothing was tried yet, measured on
# EfficientNet-Lite0 and MiniLM-L6: a head and tables; a factor of a row or column; code lengths in
# whole bits.
_HEAD_BYTES = 600
_FACTOR_BYTES = 1.25
_OVERHEAD = 1.013
_AIM = 0.997  # fraction of the limit that is aimed at


@dataclass(eq=False)
class _Expected:
    """What a file takes at a Lagrange multiplier.

    Attributes:
        rates: of the weights.
        scales: their penalties at a multiplier of 1.
        fixed: bytes of everything but codes.
    """

    rates: dict[str, WeightRate]
    scales: dict[str, float]
    fixed: float

    def bytes_at(self, log: float) -> float:
        """At the multiplier of this natural logarithm."""
        bits = sum(
            rate.size * rate.curve.bits(math.exp(log) * self.scales[name])
            for name, rate in self.rates.items()
        )
        return self.fixed + _OVERHEAD * bits / 8

    def log_for(self, limit: float) -> float:
        """The logarithm of the smallest multiplier, about, that keeps a limit."""
        low, high = self.range()
        while high - low > 1e-4:
            middle = (low + high) / 2
            low, high = (middle, high) if self.bytes_at(middle) > limit else (low, middle)
        return high

    def range(self) -> tuple[float, float]:
        """From one at which weights take more than they are stored with, to all zero."""
        ratios = [
            math.log(max(rate.power, 1e-30) / self.scales[name])
            for name, rate in self.rates.items()
        ]
        return min(ratios) - 14.0, max(ratios) + 8.0


@dataclass(eq=False)
class _Result:
    """A model that was compressed: its bytes, and what the records and parameters were.

    Attributes:
        size: of the file.
        code_bytes: of it, the entropies of the codes.
    """

    size: float
    code_bytes: float
    records: list[WeightRecord]
    parameters: list[tuple[nn.Parameter, torch.Tensor]]


def fit_size_(
    model: nn.Module,
    calibration: Calibration,
    target: Target,
    progress: Callable[[str], None],
) -> None:
    """Calibrates and encodes the weights for a file of a size; the records keep the blobs.

    Args:
        model: with the layers of the records.
        calibration: of these.
        target: a size.
        progress: called with a line for each layer and each try.

    Raises:
        ValueError: nothing meets the target; or importance is given as well, or no input reaches a
            layer.
    """
    records = calibration.records
    if not records:
        raise ValueError("no layer of this model can be compressed, so that no target can be met")
    given = {record: record.settings for record in records}
    rates, scales = known_rates(calibration)
    dense = sum(record.dense_bytes for record in records)
    factors = sum(sum(record.parameter.shape[:2]) for record in records)
    beside = _HEAD_BYTES * len(records) + _FACTOR_BYTES * factors
    expected = _Expected(rates, scales, tensor_bytes(model) - dense + beside)
    aim, best, smallest = _AIM * target.limit, None, math.inf
    low, high = expected.range()
    tried: list[tuple[float, float]] = []
    for number in range(_TRIES + _MORE):
        log = min(max(_next(tried, expected.log_for(aim)), low), high)
        result = _compress(model, calibration, target, scales, log, given, progress)
        smallest = min(smallest, result.size)
        progress(f"try {number + 1}: {result.size:,.0f} bytes of {target.limit:,.0f}")
        expected.fixed = result.size - _OVERHEAD * result.code_bytes
        tried.append((log, expected.log_for(result.size)))
        kept = result.size <= target.limit
        if kept and (best is None or result.size > best.size):
            best = result
        if best is not None and (best.size >= _CLOSE * target.limit or number + 1 >= _TRIES):
            break
        if not kept and log >= high:
            break
        if number + 1 >= _TRIES:
            aim *= 0.98
    if best is None:
        raise ValueError(
            f"cannot reach {target.goal or f'target_bytes={target.limit:.0f}'}: "
            f"the smallest configuration takes {smallest:,.0f} bytes"
        )
    for record, made in zip(records, best.records, strict=True):
        record.settings, record.blob, record.info = made.settings, made.blob, made.info
        record.relative_error = made.relative_error
        record.keep()
    for parameter, values in best.parameters:
        parameter.data = values


def _next(tried: list[tuple[float, float]], wanted: float) -> float:
    """The next multiplier to try, all as logarithms.

    Args:
        tried: multipliers, each with the one at which its size was expected.
        wanted: at which the size that is aimed at is expected.
    """
    if not tried:
        return wanted
    log, like = tried[-1]
    slope = 1.0
    if len(tried) > 1 and abs(like - tried[-2][1]) > 1e-3:
        slope = min(4.0, max(0.3, (log - tried[-2][0]) / (like - tried[-2][1])))
    return log + slope * (wanted - like)


def _compress(
    model: nn.Module,
    calibration: Calibration,
    target: Target,
    scales: dict[str, float],
    log: float,
    given: Mapping[WeightRecord, LayerConfig],
    progress: Callable[[str], None],
) -> _Result:
    """Compresses the model at a multiplier and measures it; the model is then as it was."""
    records = calibration.records
    try:
        for record in records:
            settings = record.settings
            record.settings = dataclasses.replace(
                settings,
                method="ecsq",
                codebook_size=settings.codebook_size or 255,
                bits=None,
                penalty=math.exp(log) * scales[record.name],
                prune=True,
            )
        chosen = [record.settings for record in records]
        calibration.apply_(progress)
        scaled = [record.scaled for record in records if record.scaled is not None]
        code_bytes = sum(own.codes.numel() * own.entropy() / 8 for own in scaled)
        quantize_and_encode(records)
        with swapped(model, compressed_modules(model, records, target.config.biases)) as compressed:
            size = target.measure(compressed)
        made = [
            dataclasses.replace(record, settings=settings, saved=[], scaled=None)
            for record, settings in zip(records, chosen, strict=True)
        ]
        weights = {id(record.parameter) for record in records}
        others = {
            id(parameter): (parameter, parameter.data)
            for record in records
            for parameter, _ in record.saved
            if id(parameter) not in weights
        }
        return _Result(size, code_bytes, made, list(others.values()))
    finally:
        for record in reversed(records):
            record.restore()
            record.settings = given[record]
