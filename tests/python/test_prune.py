"""Masks, schedules, and training that keeps them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from tersor.prune import (
    CubicSchedule,
    Masks,
    density_masks,
    masks_from_torch_prune,
    threshold_mask,
)


def test_threshold_and_density_masks() -> None:
    weight = torch.tensor([[3.0, -0.1], [0.2, -4.0]])
    assert threshold_mask(weight, 1.0).tolist() == [[True, False], [False, True]]
    masks = density_masks({"a": weight.abs(), "b": torch.tensor([9.0, 0.0])}, 0.5)
    assert masks["a"].tolist() == [[True, False], [False, True]]
    assert masks["b"].tolist() == [True, False]
    with pytest.raises(ValueError, match="bad: .*NaN"):
        threshold_mask(torch.tensor([float("nan")]), 1.0, "bad")


def test_cubic_schedule_falls_from_initial_to_final() -> None:
    schedule = CubicSchedule(0.1, 100, begin=10)
    densities = [schedule.density(step) for step in range(150)]
    assert densities[0] == densities[10] == 1.0
    assert densities[100] == densities[149] == 0.1
    assert densities == sorted(densities, reverse=True)


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


def test_masks_are_set_all_or_none() -> None:
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    masks = Masks({"first": first.weight, "second": second.weight})
    with pytest.raises(ValueError, match="second: the mask has shape"):
        masks.set({"first": torch.zeros(2, 3), "second": torch.zeros(1)})
    assert masks.density() == 1.0


def test_masks_go_through_a_checkpoint() -> None:
    first, second = nn.Linear(5, 4), nn.Linear(5, 4)
    masks = Masks({"weight": first.weight})
    masks.set(density_masks({"weight": first.weight.abs()}, 0.3))
    resumed = Masks({"weight": second.weight})
    resumed.load_state_dict(masks.state_dict())
    assert torch.equal(second.weight == 0, first.weight == 0)
    with pytest.raises(ValueError, match="lacks the masks of .*weight"):
        resumed.load_state_dict({})
