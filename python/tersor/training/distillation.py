"""Knowledge distillation: a network learns from the scores of a dense one.

Source: Hinton et al. 2015 (arXiv 1503.02531).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


def distillation_loss(
    scores: torch.Tensor,
    targets: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    teacher_weight: float,
) -> torch.Tensor:
    """Distance from the teacher's softened scores and from the labels, a scalar.

    Args:
        scores: of the network, float ``[n, classes]``.
        targets: of its teacher, alike.
        labels: int64 ``[n]``.
        temperature: scores are divided by it before the softmax.
        teacher_weight: 0 to 1, share of the teacher in the loss.
    """
    t = temperature
    soft = F.kl_div(F.log_softmax(scores / t, 1), F.softmax(targets / t, 1), reduction="batchmean")
    hard = F.cross_entropy(scores, labels)
    return teacher_weight * t * t * soft + (1 - teacher_weight) * hard


@torch.no_grad()
def teacher_scores(
    teacher: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, batch_size: int = 1000
) -> torch.Tensor:
    """What a teacher answers to all inputs, batch by batch: ``[n, classes]``."""
    return torch.cat([teacher(x) for x in inputs.split(batch_size)])
