"""Masks, and training that keeps them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from tersor.pruning.masks import Masks, density_masks, masks_from_torch_prune, threshold_mask
from tersor.pruning.schedules import RoundSchedule


def test_threshold_and_density_masks() -> None:
    weight = torch.tensor([[3.0, -0.1], [0.2, -4.0]])
    assert threshold_mask(weight, 1.0).tolist() == [[True, False], [False, True]]
    masks = density_masks({"a": weight.abs(), "b": torch.tensor([9.0, 0.0])}, 0.5)
    assert masks["a"].tolist() == [[True, False], [False, True]]
    assert masks["b"].tolist() == [True, False]
    with pytest.raises(ValueError, match="bad: .*NaN"):
        threshold_mask(torch.tensor([float("nan")]), 1.0, "bad")


def test_densities_per_layer() -> None:
    scores = {"a": torch.arange(10.0), "b": torch.arange(100.0)}
    masks = density_masks(scores, {"a": 0.5, "b": 0.02})
    assert masks["a"].nonzero().flatten().tolist() == [5, 6, 7, 8, 9]
    assert masks["b"].nonzero().flatten().tolist() == [98, 99]
    with pytest.raises(ValueError, match=r"no density is given for \['b'\]"):
        density_masks(scores, {"a": 0.5})


@pytest.mark.slow
def test_iterative_pruning_ends_at_its_density_with_less_loss_than_at_once() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 40)
    y = x @ (torch.randn(40, 5) * (torch.rand(40, 5) < 0.1))

    def train(rounds: int) -> float:
        torch.manual_seed(1)
        layers = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 5))
        masks = Masks({n: p for n, p in layers.named_parameters() if n.endswith("weight")})
        optimizer = torch.optim.Adam(layers.parameters(), 5e-3)
        masks.attach(optimizer)
        schedule = RoundSchedule(0.08, rounds, 600 // rounds)
        for step in range(-200, 600):
            if step >= 0 and step % schedule.steps == 0:
                scores = {n: p.abs() for n, p in masks.parameters.items()}
                masks.set(density_masks(scores, schedule.density(step)))
            optimizer.zero_grad()
            loss = ((layers(x) - y) ** 2).mean()
            loss.backward()
            optimizer.step()
        assert masks.density() == pytest.approx(0.08, abs=1e-3)
        return float(loss.detach())

    assert train(5) < 0.9 * train(1)


def test_masks_hold_through_training_and_can_be_detached() -> None:
    layer = nn.Linear(5, 4)
    masks = Masks({"weight": layer.weight})
    masks.set(density_masks({"weight": layer.weight.abs()}, 0.3))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    handles = masks.attach(optimizer)

    def step() -> None:
        optimizer.zero_grad()
        layer(torch.randn(8, 5)).square().sum().backward()
        optimizer.step()

    for _ in range(3):
        step()
    assert torch.equal(layer.weight != 0, masks.masks["weight"])
    for handle in handles:
        handle.remove()
    step()
    assert int((layer.weight != 0).sum()) > 6
    with pytest.raises(ValueError, match="'other'"):
        masks.set({"other": torch.ones(1)})
    with pytest.raises(ValueError, match="weight: the mask has shape"):
        masks.set({"weight": torch.ones(1)})


def test_torch_prune_masks_are_imported() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    torch_prune.l1_unstructured(model[0], "weight", 0.5)
    masks = masks_from_torch_prune(model)
    assert list(masks) == ["0.weight"]
    assert int(masks["0.weight"].sum()) == 8


def test_setting_masks_is_atomic() -> None:
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    masks = Masks({"first": first.weight, "second": second.weight})
    with pytest.raises(ValueError, match="second: the mask has shape"):
        masks.set({"first": torch.zeros(2, 3), "second": torch.zeros(1)})
    assert masks.density() == 1.0


def test_masks_round_trip_through_a_checkpoint() -> None:
    first, second = nn.Linear(5, 4), nn.Linear(5, 4)
    masks = Masks({"weight": first.weight})
    masks.set(density_masks({"weight": first.weight.abs()}, 0.3))
    resumed = Masks({"weight": second.weight})
    resumed.load_state_dict(masks.state_dict())
    assert torch.equal(second.weight == 0, first.weight == 0)
    with pytest.raises(ValueError, match="missing masks in state_dict: .*weight"):
        resumed.load_state_dict({})


def test_masks_are_replaced_in_place_for_a_captured_step() -> None:
    weight = nn.Parameter(torch.ones(4))
    masks = Masks({"w": weight})
    before = masks.masks["w"]
    masks.set({"w": torch.tensor([True, False, True, False])})
    assert masks.masks["w"] is before
    assert weight.tolist() == [1.0, 0.0, 1.0, 0.0]
