"""Learning from a teacher's scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tersor.training.distillation import distillation_loss, teacher_scores


def test_distillation_weighs_teacher_and_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, targets = torch.randn(2, 6, 10, generator=generator)
    labels = torch.arange(6)
    alone = distillation_loss(scores, targets, labels, 3.0, 0.0)
    torch.testing.assert_close(alone, F.cross_entropy(scores, labels))
    p, q = (targets / 3).softmax(1), (scores / 3).softmax(1)
    soft = 9 * (p * (p / q).log()).sum(1).mean()
    both = distillation_loss(scores, targets, labels, 3.0, 0.7)
    torch.testing.assert_close(both, 0.7 * soft + 0.3 * alone)


def test_a_teacher_answers_to_all_inputs_without_gradients() -> None:
    teacher = nn.Linear(4, 3)
    inputs = torch.randn(10, 4)
    seen: list[int] = []

    def answer(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        scores: torch.Tensor = teacher(x)
        return scores

    found = teacher_scores(answer, inputs, batch_size=4)
    assert seen == [4, 4, 2]
    assert not found.requires_grad
    torch.testing.assert_close(found, teacher(inputs).detach())
