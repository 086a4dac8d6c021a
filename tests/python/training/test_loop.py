"""The training loop, beside one that is written out."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.training.learning_rates import CosineRate, Position
from tersor.training.loop import Examples, Loop, in_precision

COUNT, BATCH = 22, 5


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def draw(epoch: int) -> Examples:
    generator = torch.Generator().manual_seed(epoch)
    inputs = torch.randint(0, 256, (COUNT, 6), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 3, (COUNT,), generator=generator)
    targets = torch.randn(COUNT, 3, generator=generator)
    return Examples(inputs, labels, torch.randperm(COUNT, generator=generator), targets)


def loss_of(
    scores: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor | None
) -> torch.Tensor:
    assert targets is not None
    return F.cross_entropy(scores, labels) + F.mse_loss(scores, targets)


def test_it_trains_as_a_loop_that_is_written_out(model: nn.Sequential) -> None:
    expected = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    rate = CosineRate(0.1, warmup=0.2)
    loop = Loop(
        model,
        optimizer,
        batch_size=BATCH,
        epochs=3,
        rate=rate,
        loss=loss_of,
        to_input=lambda x: x.float() / 255,
    )
    positions: list[Position] = []
    model.eval()  # the loop brings it back into training mode
    results = list(loop.run(draw, range(3), positions.append))

    steps = 5  # the last one smaller
    assert positions == [Position(e, 3, s, steps) for e in range(3) for s in range(steps)]
    by_hand = torch.optim.SGD(expected.parameters(), lr=1.0, momentum=0.9)
    for epoch, result in enumerate(results):
        examples = draw(epoch)
        assert examples.targets is not None
        total, right = 0.0, 0
        for step, index in enumerate(examples.order.split(BATCH)):
            by_hand.param_groups[0]["lr"] = rate(Position(epoch, 3, step, steps))
            scores = expected(examples.inputs[index].float() / 255)
            loss = loss_of(scores, examples.labels[index], examples.targets[index])
            expected.zero_grad()
            loss.backward()
            by_hand.step()
            total += float(loss.detach()) * len(index)
            right += int((scores.argmax(1) == examples.labels[index]).sum())
        assert result.epoch == epoch + 1
        assert result.loss == pytest.approx(total / COUNT, rel=1e-5)
        assert result.accuracy == pytest.approx(100 * right / COUNT)
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_stopped_training_goes_on_where_it_was(model: nn.Sequential) -> None:
    def loop_of(module: nn.Module) -> Loop:
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        rate = CosineRate(0.1)
        return Loop(
            module, optimizer, batch_size=BATCH, epochs=4, rate=rate, to_input=torch.Tensor.float
        )

    whole = copy.deepcopy(model)
    list(loop_of(whole).run(draw, range(4)))
    list(loop_of(model).run(draw, range(3)))
    list(loop_of(model).run(draw, range(3, 4)))
    assert torch.equal(model[0].weight, whole[0].weight)


def test_the_caller_has_its_turn_after_each_epoch(model: nn.Sequential) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loop = Loop(model, optimizer, batch_size=BATCH, epochs=2, to_input=torch.Tensor.float)
    drawn: list[int] = []

    def counted(epoch: int) -> Examples:
        drawn.append(epoch)
        return draw(epoch)

    results = loop.run(counted, range(2))
    assert next(results).epoch == 1
    assert drawn == [0]
    assert [result.epoch for result in results] == [2]


def test_without_a_rate_the_optimizer_keeps_its_own(model: nn.Sequential) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    loop = Loop(model, optimizer, batch_size=COUNT, epochs=2, to_input=torch.Tensor.float)
    list(loop.run(draw, range(2), after_step=lambda _: scheduler.step()))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 4)


def test_products_in_bfloat16_give_float32_scores(model: nn.Sequential) -> None:
    x = torch.randn(4, 6)
    model.eval()
    exact, rounded = in_precision(model, False)(x), in_precision(model, True)(x)
    assert torch.equal(exact, model(x))
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.1)
