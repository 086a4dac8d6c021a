"""Actions within an optimizer's step: after the gradients, wherever those are computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tersor.pruning.optimizer_hooks import before_step

Step = Callable[[torch.optim.Optimizer, Callable[[], Any]], Any]


def by_hand(optimizer: torch.optim.Optimizer, closure: Callable[[], Any]) -> Any:
    loss = closure()
    optimizer.step()
    return loss


STEPS: dict[str, Step] = {
    "by hand": by_hand,
    "closure": lambda optimizer, closure: optimizer.step(closure),
    "closure by name": lambda optimizer, closure: optimizer.step(closure=closure),
}


@pytest.mark.parametrize("way", STEPS)
def test_it_runs_once_the_gradients_are_there(way: str) -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    seen: list[list[float]] = []

    def first_alone() -> None:
        assert weight.grad is not None
        seen.append(weight.grad.tolist())
        weight.grad[1] = 0.0

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (weight * torch.tensor([3.0, 5.0])).sum()
        loss.backward()
        return loss

    handle = before_step(optimizer, first_alone)
    assert float(STEPS[way](optimizer, closure)) == 13.0  # the loss goes through
    assert seen == [[3.0, 5.0]]
    assert weight.tolist() == [-2.0, 2.0]
    handle.remove()
    STEPS[way](optimizer, closure)
    assert len(seen) == 1
    assert weight.tolist() == [-5.0, -3.0]


def test_actions_run_in_the_order_in_which_they_were_given() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    seen: list[str] = []
    before_step(optimizer, lambda: seen.append("first"))
    before_step(optimizer, lambda: seen.append("second"))
    optimizer.step()
    optimizer.step(lambda: seen.append("closure"))
    assert seen == ["first", "second", "closure", "first", "second"]
