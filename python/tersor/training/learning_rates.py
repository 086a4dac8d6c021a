"""Learning rates: where a training stands, and half a cosine with warm-up over it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Position:
    """Where a training stands.

    Attributes:
        epoch, epochs: number of the epoch, from 0, and how many there are.
        step, steps: number of the step within the epoch, from 0, and how many an epoch has.
    """

    epoch: int
    epochs: int
    step: int
    steps: int

    @property
    def done(self) -> int:
        """Number of the step over all epochs, from 0."""
        return self.epoch * self.steps + self.step

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1."""
        return (self.epoch + self.step / self.steps) / self.epochs


@dataclass(frozen=True)
class CosineRate:
    """Rises linearly for a part of the training, and falls to zero as half a cosine.

    Attributes:
        peak: the highest learning rate, above 0.
        warmup: share of the training that it rises for, 0 to 1, 1 excluded.
        overlap: the cosine spans the whole training and warm-up scales its first part; otherwise
            it begins where warm-up ends.

    Raises:
        ValueError: a number is out of range.
    """

    peak: float
    warmup: float = 0.0
    overlap: bool = False

    def __post_init__(self) -> None:
        if not (self.peak > 0 and math.isfinite(self.peak)):
            raise ValueError(f"peak must be above 0, not {self.peak}")
        if not 0.0 <= self.warmup < 1.0:
            raise ValueError(f"warmup must be 0 to 1, 1 excluded, not {self.warmup}")

    def __call__(self, at: Position) -> float:
        """The learning rate of a step."""
        if self.overlap:
            steps = at.epochs * at.steps
            rise = min(1.0, (at.done + 1) / (self.warmup * steps)) if self.warmup else 1.0
            return _half_cosine(self.peak * rise, at.done, steps)
        if not self.warmup:
            return _half_cosine(self.peak, at.progress, 1)
        parts = 1 / self.warmup
        if parts * at.progress < 1:
            return self.peak * parts * at.progress
        return _half_cosine(self.peak, (parts * at.progress - 1) / (parts - 1), 1)


def _half_cosine(peak: float, done: float, total: float) -> float:
    return peak * 0.5 * (1 + math.cos(math.pi * done / total))
