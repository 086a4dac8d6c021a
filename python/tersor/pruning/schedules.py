"""Schedules of gradual pruning, and the settings of retraining.

Sources: Han et al. 2015 (arXiv 1506.02626), section 3; Zhu and Gupta 2017 (arXiv 1710.01878), the
gradual schedule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class CubicSchedule:
    """The density at each step: from ``initial`` to ``final``, fast at first.

    Attributes:
        final: density from step ``end`` on.
        end: the step at which it is reached.
        initial: density up to step ``begin``.
        begin: the first step of the descent.
    """

    final: float
    end: int
    initial: float = 1.0
    begin: int = 0

    def density(self, step: int) -> float:
        """The density at a step."""
        if step >= self.end:
            return self.final
        progress = max(0, step - self.begin) / (self.end - self.begin)
        return self.final + (self.initial - self.final) * (1.0 - progress) ** 3


@dataclass(frozen=True)
class RoundSchedule:
    """The density at each step of iterative pruning: prune, retrain for a round, prune again.

    Each round keeps the same share of what the last one kept.

    Attributes:
        final: density of the last round.
        rounds: how often pruning happens.
        steps: of retraining in each round.
    """

    final: float
    rounds: int
    steps: int

    def density(self, step: int) -> float:
        """The density at a step."""
        done = min(self.rounds, step // self.steps + 1)
        return float(self.final ** (done / self.rounds))


@dataclass(frozen=True)
class Retraining:
    """The paper's settings of retraining (Han et al. 2015, sections 3.2 to 3.4).

    L2 regularisation with retraining prunes best (section 3.2).

    Attributes:
        learning_rate: of the dense training.
        factor: of it that retraining takes: a tenth for the LeNets, a hundredth for AlexNet.
        dropout: rate of the dense training.
        weight_decay: L2.
    """

    learning_rate: float
    factor: float = 0.1
    dropout: float = 0.5
    weight_decay: float = 5e-4

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.SGD:
        """Gradient descent with momentum 0.9 by these settings."""
        return torch.optim.SGD(
            parameters,
            lr=self.learning_rate * self.factor,
            momentum=0.9,
            weight_decay=self.weight_decay,
        )

    def dropout_rate(self, density: float) -> float:
        """Do sqrt(Cr / Co): a layer of so many connections left overfits less.

        Raises:
            ValueError: the density is not 0 to 1.
        """
        if not 0.0 <= density <= 1.0:
            raise ValueError(f"density must be 0 to 1, not {density}")
        return self.dropout * math.sqrt(density)
