"""Trained weight sharing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.quantizers.kmeans import quantize_kmeans
from tersor.training.assignments import TrainedAssignments
from tersor.training.codebooks import SharedWeights


def test_shared_gradients_are_those_of_the_look_up() -> None:
    layer = nn.Linear(9, 7)
    with torch.no_grad():
        layer.weight[layer.weight.abs() < 0.1] = 0
    zeros = layer.weight == 0
    shared = SharedWeights({"w": layer.weight}, 4)
    x = torch.randn(5, 9)
    layer(x).square().sum().backward()
    shared.gather_gradients()
    codebook = shared.codebooks["w"].detach().clone().requires_grad_()
    F.linear(x, codebook[shared.codes["w"]], layer.bias).square().sum().backward()
    assert codebook.grad is not None
    found = shared.codebooks["w"].grad
    assert found is not None
    assert torch.allclose(found[1:], codebook.grad[1:], rtol=1e-4)
    torch.optim.SGD(shared.codebooks.values(), lr=0.01).step()
    shared.write()
    assert torch.equal(layer.weight == 0, zeros)
    assert len(layer.weight.unique()) <= 5


def test_each_name_needs_a_number_of_values() -> None:
    with pytest.raises(ValueError, match=r"no number of shared values is given for \['w'\]"):
        SharedWeights({"w": nn.Linear(3, 2).weight}, {"v": 4})


def test_weights_of_other_float_types_are_shared_too() -> None:
    layer = nn.Linear(9, 7).to(torch.bfloat16)
    shared = SharedWeights({"w": layer.weight}, 4)
    layer(torch.randn(5, 9, dtype=torch.bfloat16)).sum().backward()
    shared.gather_gradients()
    torch.optim.SGD(shared.codebooks.values(), lr=0.01).step()
    shared.write()
    assert layer.weight.dtype == torch.bfloat16
    assert len(layer.weight.unique()) <= 4


def pruned_regression() -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    """A layer with zeros, inputs that correlate, and the outputs that it has before sharing."""
    torch.manual_seed(0)
    layer = nn.Linear(40, 30)
    with torch.no_grad():
        layer.weight[layer.weight.abs() < 0.07] = 0
    x = torch.randn(400, 10) @ torch.randn(10, 40) + 0.3 * torch.randn(400, 40)
    return layer, x, layer(x).detach()


def test_codes_move_to_where_the_loss_is_less() -> None:
    layer, x, wanted = pruned_regression()
    zeros = layer.weight == 0
    chosen = quantize_kmeans({"w": layer.weight.detach().numpy()}, 5)
    moving = TrainedAssignments({"w": layer.weight}, chosen)
    values = torch.from_numpy(chosen["w"].values)
    first = F.mse_loss(layer(x), wanted).item()
    optimizer = torch.optim.SGD([layer.weight], lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=500)
    for _ in range(500):
        layer.zero_grad()
        F.mse_loss(layer(x), wanted).backward()
        moving.restore()
        optimizer.step()
        schedule.step()
        moving.write()
        assert torch.isin(layer.weight[~zeros], values).all()
        assert torch.equal(layer.weight == 0, zeros)
    assert F.mse_loss(layer(x), wanted).item() < 0.6 * first
    found = moving.shared()["w"]
    assert not np.array_equal(found.codes, chosen["w"].codes)
    before = layer.weight.detach().clone()
    SharedWeights({"w": layer.weight}, {"w": found})
    assert torch.equal(layer.weight, before)


def test_a_weight_takes_another_value_past_the_middle() -> None:
    weight = nn.Parameter(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    moving = TrainedAssignments({"w": weight}, quantize_kmeans({"w": weight.detach().numpy()}, 3))
    for step, expected in ((0.4, 1.0), (0.2, 2.0)):
        moving.restore()
        with torch.no_grad():
            weight[:3] += step
        moving.write()
        assert weight.tolist() == [-1.0, 0.0, expected, 2.0]
    assert moving.shared()["w"].values.tolist() == [-1.0, 2.0]  # none is left at 1
    assert moving.shared()["w"].codes.tolist() == [1, 0, 2, 2]


def test_a_layer_without_weights_stays_so() -> None:
    weight = nn.Parameter(torch.zeros(3, 2))
    moving = TrainedAssignments({"w": weight}, quantize_kmeans({"w": weight.detach().numpy()}, 3))
    moving.restore()
    with torch.no_grad():
        weight += 1
    moving.write()
    assert not weight.any()
    assert not moving.shared()["w"].codes.any()
    assert len(moving.shared()["w"].values) == 0
