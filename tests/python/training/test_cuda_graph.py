"""A step that a GPU replays trains as a plain one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.quantizers.kmeans import quantize_kmeans
from tersor.training.assignments import TrainedAssignments
from tersor.training.codebooks import SharedWeights
from tersor.training.cuda_graph import PLAIN_CALLS, Step, optimizer_rate, set_rate

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
Function = Callable[..., None]
WRAPPERS: tuple[Callable[[Function], Function], ...] = (Step, lambda step: step)


def test_every_call_is_a_step() -> None:
    total = torch.zeros(3)
    step = Step(lambda x, y: total.add_(x * y))
    for i in range(PLAIN_CALLS + 3):
        step(torch.full((3,), float(i)), torch.tensor([1.0, 2.0, 3.0]))
    assert total.tolist() == [15.0, 30.0, 45.0]


@needs_gpu
def test_a_replayed_step_trains_as_a_plain_one() -> None:
    device = torch.device("cuda")
    found = []
    for wrap in WRAPPERS:
        torch.manual_seed(0)
        model = nn.Linear(8, 4).to(device)
        optimizer = torch.optim.SGD(model.parameters(), **optimizer_rate(0.1, device))

        def one(
            x: torch.Tensor,
            y: torch.Tensor,
            model: nn.Linear = model,
            optimizer: torch.optim.Optimizer = optimizer,
        ) -> None:
            model.zero_grad(set_to_none=True)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

        step = wrap(one)
        for i in range(8):
            set_rate(optimizer, 0.1 / (i + 1))
            step(torch.randn(16, 8, device=device), torch.randint(0, 4, (16,), device=device))
        found.append(model.weight.detach().cpu())
    torch.testing.assert_close(found[0], found[1])


@needs_gpu
@pytest.mark.parametrize("kind", ["assignments", "codebooks"])
def test_what_is_attached_is_replayed_too(kind: str) -> None:
    device = torch.device("cuda")
    found = []
    for wrap in WRAPPERS:
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(64, device=device))
        target = torch.randn(64, device=device)
        chosen = quantize_kmeans({"w": weight.detach().cpu().numpy()}, 7)
        trained: TrainedAssignments | SharedWeights
        if kind == "assignments":
            trained, parameters = TrainedAssignments({"w": weight}, chosen), [weight]
        else:
            trained = SharedWeights({"w": weight}, chosen)
            parameters = list(trained.codebooks.values())
        before = weight.detach().clone()
        optimizer = torch.optim.SGD(parameters, **optimizer_rate(0.05, device))
        trained.attach(optimizer)

        def one(
            scale: torch.Tensor,
            weight: nn.Parameter = weight,
            target: torch.Tensor = target,
            optimizer: torch.optim.Optimizer = optimizer,
        ) -> None:
            weight.grad = None
            (scale * (weight - target) ** 2).sum().backward()
            optimizer.step()

        step = wrap(one)
        for i in range(8):
            step(torch.full((), 1.0 + i / 8, device=device))
        assert not torch.equal(weight, before)
        assert len(weight.unique()) <= 7
        found.append(weight.detach().cpu())
    torch.testing.assert_close(found[0], found[1])


def test_rates_are_set_in_place_for_a_captured_step() -> None:
    weight = nn.Parameter(torch.zeros(2))
    plain = torch.optim.SGD([weight], **optimizer_rate(0.1, torch.device("cpu")))
    set_rate(plain, 0.25)
    assert plain.param_groups[0]["lr"] == 0.25
    rate = torch.tensor(0.1)
    captured = torch.optim.SGD([weight], lr=rate)
    set_rate(captured, 0.25)
    assert captured.param_groups[0]["lr"] is rate
    assert float(rate) == 0.25
