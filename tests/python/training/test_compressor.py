"""Pruning and shared weights within a loop of one's own."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tersor
from tersor.pruning.masks import density_masks
from tersor.training import Compressor, Schedule

SCHEDULE = Schedule(density=0.25, prune_end=24, share_at=32, prune_every=4, codebook_size=7)


def _model() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 20), nn.ReLU(),
        nn.Linear(20, 4),
    )  # fmt: skip


def _batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose brightest quarter is the class: what can be learned."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(32, 1, 8, 8, generator=generator)
    y = torch.randint(0, 4, (32,), generator=generator)
    for image, label in zip(x, y, strict=True):
        row, column = divmod(int(label), 2)
        image[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
    return x, y


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable[int]) -> float:
    loss = torch.zeros(())
    for step in steps:
        x, y = _batch(step)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def _adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01)


def _values(compressor: Compressor) -> list[int]:
    return [int(w.detach().unique().count_nonzero()) for w in compressor.weights.values()]


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda m: torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4),
    "adam": _adam,
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=0.01),
    "adafactor": lambda m: torch.optim.Adafactor(m.parameters(), lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loop_prunes_shares_and_goes_on_training(name: str) -> None:
    model = _model()
    optimizer = OPTIMIZERS[name](model)
    compressor = Compressor(model, SCHEDULE).attach(optimizer)
    assert sorted(compressor.weights) == ["0.weight", "3.weight", "5.weight"]
    _train(model, optimizer, range(24))
    assert compressor.density == pytest.approx(0.25, abs=0.001)
    assert not compressor.shared
    _train(model, optimizer, range(24, 32))
    assert compressor.shared
    zeros = {n: w.detach() == 0 for n, w in compressor.weights.items()}
    before = {n: w.detach().clone() for n, w in compressor.weights.items()}
    _train(model, optimizer, range(32, 60))
    assert all(count <= 7 for count in _values(compressor))
    for n, w in compressor.weights.items():
        assert torch.equal(w.detach() == 0, zeros[n])
        assert not torch.equal(w.detach(), before[n])  # the values are trained
    if name != "adafactor":  # whose rate is relative to the weights
        x, y = _batch(1000)
        assert float((model(x).argmax(1) == y).float().mean()) > 0.8
    x = torch.randn(3, 1, 8, 8)
    dense = model.eval()(x)
    small = compressor.finish()
    assert isinstance(small[3], tersor.nn.CompressedLinear)
    assert torch.allclose(small(x), dense, rtol=1e-3, atol=1e-4)
    rows = {layer.name: layer for layer in tersor.report(small).layers}
    assert rows["3"].codebook_size is not None
    assert rows["3"].codebook_size <= 7


def test_a_shared_value_takes_the_sum_of_its_members_gradients() -> None:
    model = nn.Sequential(nn.Linear(12, 8, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    schedule = Schedule(density=1.0, prune_end=0, share_at=1, codebook_size=3)
    compressor = Compressor(model, schedule).attach(optimizer)
    weight = compressor.weights["0.weight"]
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    before = weight.detach().clone()
    gradient = torch.randn(8, 12)
    weight.grad = gradient.clone()
    optimizer.step()
    for value in before.unique():
        members = before == value
        expected = value - 0.01 * gradient[members].sum()
        assert torch.allclose(weight.detach()[members], expected, atol=1e-6)


def test_shared_values_of_many_weights_stay_where_nothing_moves_them() -> None:
    model = nn.Sequential(nn.Linear(1000, 1000, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    compressor = Compressor(model, Schedule(1.0, prune_end=0, share_at=1, codebook_size=1))
    compressor.attach(optimizer)
    weight = compressor.weights["0.weight"]
    weight.data.abs_()
    for step in range(6):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        if step == 0:
            before = weight.detach().clone()
    assert before.unique().numel() == 1
    assert torch.equal(weight.detach(), before)  # float32 sums of a million would be .7 % off


def test_the_value_that_each_weight_takes_is_trained_if_asked_for() -> None:
    model = _model()
    optimizer = _adam(model)
    schedule = dataclasses.replace(SCHEDULE, assign_at=28, share_at=48)
    compressor = Compressor(model, schedule).attach(optimizer)
    _train(model, optimizer, range(28))
    assert compressor.shared
    zeros = {n: w.detach() == 0 for n, w in compressor.weights.items()}
    values = {n: w.detach().unique() for n, w in compressor.weights.items()}
    before = {n: w.detach().clone() for n, w in compressor.weights.items()}
    _train(model, optimizer, range(28, 47))
    for n, w in compressor.weights.items():
        assert torch.equal(w.detach() == 0, zeros[n])
        assert torch.isin(w.detach(), values[n]).all()
        assert not torch.equal(w.detach(), before[n])  # some take another value
    _train(model, optimizer, range(47, 60))
    for n, w in compressor.weights.items():
        assert torch.equal(w.detach() == 0, zeros[n])
        assert not torch.isin(w.detach(), values[n]).all()  # the values are trained
    assert all(count <= 7 for count in _values(compressor))


def test_without_a_schedule_the_loop_decides() -> None:
    model = _model()
    optimizer = _adam(model)
    biggest = {n: w.detach().abs() for n, w in model.named_parameters() if w.dim() > 1}
    compressor = Compressor(model, scores=lambda weights, optimizer: biggest)
    with pytest.raises(RuntimeError, match="only weights that an optimizer trains freely"):
        compressor.prune(0.5)
    compressor.attach(optimizer)
    _train(model, optimizer, range(4))
    compressor.prune(0.25)
    _train(model, optimizer, range(4, 8))
    assert compressor.density == pytest.approx(0.25, abs=0.001)
    for n, kept in density_masks(biggest, 0.25).items():
        assert torch.equal(compressor.weights[n] != 0, kept)
    compressor.detach()
    with pytest.raises(RuntimeError, match=r"call assign\(\) first"):
        compressor.assigned()
    shared = compressor.share({**compressor.cluster(7), "3.bias": 2})
    with pytest.raises(RuntimeError, match="only weights that an optimizer trains freely"):
        compressor.prune(0.1)
    before = {n: c.detach().clone() for n, c in shared.codebooks.items()}
    optimizer = torch.optim.Adam(shared.codebooks.values(), lr=0.01)
    compressor.attach(optimizer)
    _train(model, optimizer, range(8, 12))
    assert all(count <= 7 for count in _values(compressor))
    assert len(model[3].bias.unique()) == 2
    for n, codebook in shared.codebooks.items():
        assert not torch.equal(codebook, before[n])
        parameter = model.get_parameter(n)
        assert torch.equal(parameter, codebook[shared.codes[n]])


def test_without_sharing_the_kept_weights_stay_free() -> None:
    model = _model()
    optimizer = _adam(model)
    compressor = Compressor(model, Schedule(density=0.5, prune_end=8)).attach(optimizer)
    _train(model, optimizer, range(20))
    assert compressor.density == pytest.approx(0.5, abs=0.001)
    assert _values(compressor)[1] > 255


def test_a_checkpoint_goes_on_where_it_was() -> None:
    schedule = dataclasses.replace(SCHEDULE, assign_at=28, share_at=36)
    whole = _model()
    optimizer = _adam(whole)
    Compressor(whole, schedule).attach(optimizer)
    _train(whole, optimizer, range(50))
    second = _model()  # goes on from each of them in turn, whatever it did before
    its_optimizer = _adam(second)
    its_compressor = Compressor(second, schedule).attach(its_optimizer)
    for stop in (10, 32, 40, 32, 10):
        first = _model()
        optimizer = _adam(first)
        compressor = Compressor(first, schedule).attach(optimizer)
        _train(first, optimizer, range(stop))
        saved: dict[str, Any] = copy.deepcopy(
            {
                "model": first.state_dict(),
                "optimizer": optimizer.state_dict(),
                "compressor": compressor.state_dict(),
            }
        )
        second.load_state_dict(saved["model"])
        its_optimizer.load_state_dict(saved["optimizer"])
        its_compressor.load_state_dict(saved["compressor"])
        _train(second, its_optimizer, range(stop, 50))
        for name, value in whole.state_dict().items():
            assert torch.equal(second.state_dict()[name], value), (stop, name)
    other = Compressor(_model(), Schedule(density=0.5, prune_end=24))
    with pytest.raises(ValueError, match="of another schedule"):
        other.load_state_dict(saved["compressor"])


def test_layers_can_be_left_out_and_tied_weights_count_once() -> None:
    model = _model()
    compressor = Compressor(model, SCHEDULE, lambda module, name: name != "5")
    assert sorted(compressor.weights) == ["0.weight", "3.weight"]
    tied = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    tied[1].weight = tied[0].weight
    assert sorted(Compressor(tied, SCHEDULE).weights) == ["0.weight"]
    table = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8))
    assert sorted(Compressor(table, SCHEDULE).weights) == ["1.weight"]


def test_what_cannot_work_is_refused() -> None:
    model = _model()
    with pytest.raises(ValueError, match="does not train 0.weight"):
        Compressor(model, SCHEDULE).attach(torch.optim.SGD(_model().parameters(), lr=0.1))
    compressor = Compressor(model, SCHEDULE).attach(_adam(model))
    with pytest.raises(RuntimeError, match="attached already"):
        compressor.attach(_adam(model))
    with pytest.raises(ValueError, match="no layer"):
        Compressor(nn.ReLU(), SCHEDULE)
    for wrong in (
        {"density": 0.0},
        {"prune_end": -1},
        {"prune_end": 0},
        {"share_at": 3},
        {"assign_at": 24},
        {"assign_at": 30, "share_at": 30},
        {"codebook_size": 256},
        {"prune_every": 0},
        {"prune_begin": 30},
    ):
        given: dict[str, Any] = {"density": 0.5, "prune_end": 24, **wrong}
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Schedule(**given)
