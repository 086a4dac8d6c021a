"""The training loop: epochs over examples in a drawn order, with the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from tersor.training.cuda_graph import Step, set_rate
from tersor.training.learning_rates import Position

Forward = Callable[[torch.Tensor], torch.Tensor]
# Scores, labels, and the teacher's scores where there is a teacher, to a scalar.
Loss = Callable[[torch.Tensor, torch.Tensor, "torch.Tensor | None"], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Examples:
    """What an epoch trains on.

    Attributes:
        inputs: ``[n, ...]``, of any type that ``to_input`` takes.
        labels: int64 ``[n]``.
        order: int64, indices of the examples, in the order in which they are visited.
        targets: the teacher's scores, ``[n, classes]``.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    order: torch.Tensor
    targets: torch.Tensor | None = None


@dataclass(frozen=True)
class EpochResult:
    """What an epoch gave.

    Attributes:
        epoch: the number of epochs that are done.
        loss: mean over the examples.
        accuracy: in per cent, on the examples as they were drawn, while they trained.
    """

    epoch: int
    loss: float
    accuracy: float

    def __str__(self) -> str:
        return f"loss {self.loss:.4f}, training accuracy {self.accuracy:.2f} %"


def label_loss(
    scores: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy with the labels alone; ``targets`` are not looked at."""
    return F.cross_entropy(scores, labels)


def in_precision(forward: Forward, bfloat16: bool) -> Forward:
    """A forward pass with products in bfloat16 if asked for, and float32 scores."""

    def run(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, bfloat16, cache_enabled=False):
            scores = forward(x)
        return scores.float()

    return run


class Loop:
    """Trains a network for epochs; what prunes or quantizes it is attached to the optimizer.

    Args:
        model: in training mode during an epoch.
        optimizer: of its parameters, or of what stands for them.
        batch_size: examples of a step; the last step of an epoch has what is left.
        epochs: of the whole training, which the learning rate spans.
        rate: learning rate of each step; None = what the optimizer has, or a scheduler gives it.
        loss: see :data:`Loss`.
        forward: the model's forward pass, compiled or in another precision; None = the model.
        to_input: examples' inputs to what the forward pass reads.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        batch_size: int,
        epochs: int,
        rate: Callable[[Position], float] | None = None,
        loss: Loss = label_loss,
        forward: Forward | None = None,
        to_input: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self.batch_size, self.epochs = batch_size, epochs
        self.rate, self.loss = rate, loss
        self.forward: Forward = model if forward is None else forward
        self.to_input = to_input
        device = next(model.parameters()).device
        self._loss = torch.zeros((), device=device)
        self._right = torch.zeros((), dtype=torch.int64, device=device)
        self._full_step = Step(self._step)

    def run(
        self,
        draw: Callable[[int], Examples],
        epochs: Iterable[int],
        after_step: Callable[[Position], None] | None = None,
    ) -> Iterator[EpochResult]:
        """Trains for the given epochs and yields after each, so that its caller can save a state.

        Args:
            draw: the examples of an epoch, by its number.
            epochs: their numbers, from 0.
            after_step: called after each step with its position.
        """
        for epoch in epochs:
            yield self._epoch(draw(epoch), epoch, after_step)

    def _epoch(
        self, examples: Examples, epoch: int, after_step: Callable[[Position], None] | None
    ) -> EpochResult:
        self.model.train()
        self._loss.zero_()
        self._right.zero_()
        count = len(examples.order)
        steps = math.ceil(count / self.batch_size)
        for number, index in enumerate(examples.order.split(self.batch_size)):
            at = Position(epoch, self.epochs, number, steps)
            if self.rate is not None:
                set_rate(self.optimizer, self.rate(at))
            batch = [self.to_input(examples.inputs[index]), examples.labels[index]]
            if examples.targets is not None:
                batch.append(examples.targets[index])
            # A smaller last batch is a plain call: a captured step has fixed shapes.
            step = self._full_step if len(index) == self.batch_size else self._step
            step(*batch)
            if after_step is not None:
                after_step(at)
        loss, right = float(self._loss), int(self._right)
        return EpochResult(epoch + 1, loss / count, 100 * right / count)

    def _step(
        self, x: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor | None = None
    ) -> None:
        scores = self.forward(x)
        loss = self.loss(scores, labels, targets)
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self._loss.add_(loss.detach() * len(x))
        self._right.add_((scores.detach().argmax(1) == labels).sum())
