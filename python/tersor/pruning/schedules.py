"""Pruning schedules, and the hyperparameters of retraining.

Sources: Han et al. 2015 (arXiv 1506.02626), section 3; Zhu and Gupta 2017 (arXiv 1710.01878), the
gradual schedule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


def _check_density(name: str, density: float) -> None:
    if not 0.0 <= density <= 1.0:
        raise ValueError(f"{name} must be 0 to 1, not {density}")


@dataclass(frozen=True)
class CubicSchedule:
    """Gradual pruning: the density falls from ``initial`` to ``final`` with a cubic, fast at first.

    Attributes:
        final: density from step ``end`` on.
        end: step at which ``final`` is reached.
        initial: density up to step ``begin``.
        begin: step at which pruning starts.

    Raises:
        ValueError: a density is not 0 to 1, ``final`` is above ``initial``, ``begin`` is negative,
            or ``end`` is before it.
    """

    final: float
    end: int
    initial: float = 1.0
    begin: int = 0

    def __post_init__(self) -> None:
        _check_density("final", self.final)
        _check_density("initial", self.initial)
        if self.final > self.initial:
            raise ValueError(f"final is {self.final}, above initial, {self.initial}")
        if not 0 <= self.begin <= self.end:
            raise ValueError(f"begin must be 0 to end, {self.end}, not {self.begin}")

    def density(self, step: int) -> float:
        """The density at a step."""
        if step >= self.end:
            return self.final
        if step <= self.begin:
            return self.initial
        progress = (step - self.begin) / (self.end - self.begin)
        return self.final + (self.initial - self.final) * (1.0 - progress) ** 3


@dataclass(frozen=True)
class RoundSchedule:
    """Iterative pruning: prune, retrain for a round, prune again.

    Each round keeps the same fraction of the weights that the round before kept.

    Attributes:
        final: density of the last round.
        rounds: number of pruning rounds.
        steps: retraining steps per round.

    Raises:
        ValueError: ``final`` is not above 0 and at most 1, or there is no round or no step.
    """

    final: float
    rounds: int
    steps: int

    def __post_init__(self) -> None:
        _check_density("final", self.final)
        if self.final == 0.0:
            raise ValueError("final must be above 0: no share of the rest, kept again, gives 0")
        for name in ("rounds", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")

    def density(self, step: int) -> float:
        """The density at a step."""
        done = min(self.rounds, step // self.steps + 1)
        return float(self.final ** (done / self.rounds))


@dataclass(frozen=True)
class Retraining:
    """The hyperparameters of retraining in Han et al. 2015, sections 3.2 to 3.4.

    With retraining, L2 regularization gives the best pruning results (section 3.2).

    Attributes:
        learning_rate: of the dense training.
        factor: learning rate of retraining relative to it: 0.1 for the LeNets, 0.01 for AlexNet.
        dropout: dropout rate of the dense training.
        weight_decay: L2 penalty.
    """

    learning_rate: float
    factor: float = 0.1
    dropout: float = 0.5
    weight_decay: float = 5e-4

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.SGD:
        """SGD with momentum 0.9 and these hyperparameters."""
        return torch.optim.SGD(
            parameters,
            lr=self.learning_rate * self.factor,
            momentum=0.9,
            weight_decay=self.weight_decay,
        )

    def dropout_rate(self, density: float) -> float:
        """Do sqrt(Cr / Co): the fewer connections are left, the less a layer overfits.

        Raises:
            ValueError: the density is not between 0 and 1.
        """
        _check_density("density", density)
        return self.dropout * math.sqrt(density)
