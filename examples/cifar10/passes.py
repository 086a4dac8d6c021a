"""Passes over the training images, as the dense and the compressed network both train."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from examples.cifar10.dataset import Images, augment, to_input
from examples.training import Step, distillation_loss, set_rate

BATCH = 128
# Compiling takes half a minute and saves a fifth of a step on a CPU.
STEPS_WORTH_COMPILING = 100
TEMPERATURE, TEACHER_WEIGHT = 4.0, 0.9


def _input(pixels: torch.Tensor) -> torch.Tensor:
    return to_input(pixels).contiguous(memory_format=torch.channels_last)


class Passes:
    """Passes over shifted and mirrored images, in an order drawn anew, in bfloat16 products.

    Args:
        model, images: on one device.
        optimizer: of the model.
        teacher: a network to learn from, in evaluation mode; None = from the labels alone.
        before_step, after_step: part of a step, before and after the optimizer's.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        optimizer: torch.optim.Optimizer,
        teacher: nn.Module | None = None,
        before_step: Callable[[], None] | None = None,
        after_step: Callable[[], None] | None = None,
    ) -> None:
        self.model, self.images = model, images
        self.optimizer = optimizer
        self.before_step, self.after_step = before_step, after_step
        self.batch = min(BATCH, len(images.labels))
        self.steps = len(images.labels) // self.batch
        compiles = images.labels.device.type == "cpu" and self.steps >= STEPS_WORTH_COMPILING
        self._forward = torch.compile(model) if compiles else model
        self._teacher = torch.compile(teacher) if compiles and teacher is not None else teacher
        self.loss = torch.zeros((), device=images.labels.device)
        self.right = torch.zeros((), dtype=torch.int64, device=images.labels.device)
        self._step = Step(self._one)

    def _scores(
        self, model: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
    ) -> torch.Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            scores = model(x)
        return scores.float()

    def _one(
        self, x: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor | None = None
    ) -> None:
        scores = self._scores(self._forward, x)
        if targets is None:
            loss = F.cross_entropy(scores, labels)
        else:
            loss = distillation_loss(scores, targets, labels, TEMPERATURE, TEACHER_WEIGHT)
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        if self.before_step is not None:
            self.before_step()
        self.optimizer.step()
        if self.after_step is not None:
            self.after_step()
        self.loss.add_(loss.detach())
        self.right.add_((scores.detach().argmax(1) == labels).sum())

    def run(
        self,
        seed: int,
        rate: Callable[[float], float],
        between: Callable[[int], None] | None = None,
    ) -> str:
        """One pass; what is left over of the last batch is left out.

        Args:
            seed: of the order, shifts and mirroring.
            rate: the learning rate at a part of the pass, 0 to 1.
            between: called after each step with its number within the pass.

        Returns:
            Mean loss and accuracy on these images, in words.
        """
        self.model.train()
        self.loss.zero_()
        self.right.zero_()
        device = self.images.labels.device
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.images.labels), generator=generator)
        order = order[: self.steps * self.batch].to(device)
        moved = augment(self.images.pixels, generator)
        targets = None
        if self._teacher is not None:
            with torch.no_grad():
                parts = [self._scores(self._teacher, _input(x)) for x in moved.split(1000)]
            targets = torch.cat(parts)
        for step, index in enumerate(order.split(self.batch)):
            set_rate(self.optimizer, rate(step / self.steps))
            inputs = [_input(moved[index]), self.images.labels[index]]
            self._step(*inputs, *([] if targets is None else [targets[index]]))
            if between is not None:
                between(step)
        accuracy = 100 * int(self.right) / (self.steps * self.batch)
        return f"loss {float(self.loss) / self.steps:.4f}, training accuracy {accuracy:.2f} %"
