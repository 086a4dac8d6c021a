"""What both examples' training shares (examples/training.py)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from examples import training
from tersor.pruning.masks import Masks
from tersor.quantizers.kmeans import quantize_kmeans
from tersor.training.assignments import TrainedAssignments


def test_every_call_is_a_step() -> None:
    total = torch.zeros(3)
    step = training.Step(lambda x, y: total.add_(x * y))
    for i in range(training.PLAIN_CALLS + 3):
        step(torch.full((3,), float(i)), torch.tensor([1.0, 2.0, 3.0]))
    assert total.tolist() == [15.0, 30.0, 45.0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_replayed_step_trains_as_a_plain_one() -> None:
    device = torch.device("cuda")
    found = []
    for wrap in (training.Step, lambda step: step):
        torch.manual_seed(0)
        model = torch.nn.Linear(8, 4).to(device)
        optimizer = torch.optim.SGD(model.parameters(), **training.rate_of(0.1, device))

        def one(
            x: torch.Tensor,
            y: torch.Tensor,
            model: torch.nn.Linear = model,
            optimizer: torch.optim.Optimizer = optimizer,
        ) -> None:
            model.zero_grad(set_to_none=True)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

        step = wrap(one)
        for i in range(8):
            training.set_rate(optimizer, 0.1 / (i + 1))
            step(torch.randn(16, 8, device=device), torch.randint(0, 4, (16,), device=device))
        found.append(model.weight.detach().cpu())
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_codes_move_in_a_replayed_step_as_in_a_plain_one() -> None:
    device = torch.device("cuda")
    found = []
    for wrap in (training.Step, lambda step: step):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(64, device=device))
        target = torch.randn(64, device=device)
        chosen = quantize_kmeans({"w": weight.detach().cpu().numpy()}, 7)
        moving = TrainedAssignments({"w": weight}, chosen)
        optimizer = torch.optim.SGD([weight], **training.rate_of(0.1, device))

        def one(
            scale: torch.Tensor,
            weight: torch.nn.Parameter = weight,
            target: torch.Tensor = target,
            moving: TrainedAssignments = moving,
            optimizer: torch.optim.Optimizer = optimizer,
        ) -> None:
            weight.grad = None
            (scale * (weight - target) ** 2).sum().backward()
            moving.restore()
            optimizer.step()
            moving.write()

        step = wrap(one)
        for i in range(8):
            step(torch.full((), 1.0 + i, device=device))
        made = moving.shared()["w"]
        assert (made.codes != chosen["w"].codes).any()
        found.append((made.codes.tolist(), weight.detach().cpu()))
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1])


def test_rates_are_set_in_place_for_a_captured_step() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    plain = torch.optim.SGD([weight], **training.rate_of(0.1, torch.device("cpu")))
    training.set_rate(plain, 0.25)
    assert plain.param_groups[0]["lr"] == 0.25
    rate = torch.tensor(0.1)
    captured = torch.optim.SGD([weight], lr=rate)
    training.set_rate(captured, 0.25)
    assert captured.param_groups[0]["lr"] is rate
    assert float(rate) == 0.25


def test_masks_are_replaced_in_place_for_a_captured_step() -> None:
    weight = torch.nn.Parameter(torch.ones(4))
    masks = Masks({"w": weight})
    before = masks.masks["w"]
    masks.set({"w": torch.tensor([True, False, True, False])})
    assert masks.masks["w"] is before
    assert weight.tolist() == [1.0, 0.0, 1.0, 0.0]


def test_distillation_weighs_teacher_and_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, targets = torch.randn(2, 6, 10, generator=generator)
    labels = torch.arange(6)
    alone = training.distillation_loss(scores, targets, labels, 3.0, 0.0)
    torch.testing.assert_close(alone, F.cross_entropy(scores, labels))
    p, q = (targets / 3).softmax(1), (scores / 3).softmax(1)
    soft = 9 * (p * (p / q).log()).sum(1).mean()
    both = training.distillation_loss(scores, targets, labels, 3.0, 0.7)
    torch.testing.assert_close(both, 0.7 * soft + 0.3 * alone)
