"""Training which codebook entry each weight takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.quantizers.kmeans import quantize_kmeans
from tersor.training.assignments import TrainedAssignments
from tersor.training.codebooks import SharedWeights


def pruned_regression() -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    """A layer with zeros, inputs that correlate, and its outputs before quantization."""
    torch.manual_seed(0)
    layer = nn.Linear(40, 30)
    with torch.no_grad():
        layer.weight[layer.weight.abs() < 0.07] = 0
    x = torch.randn(400, 10) @ torch.randn(10, 40) + 0.3 * torch.randn(400, 40)
    return layer, x, layer(x).detach()


def test_assignments_move_to_where_the_loss_is_less() -> None:
    layer, x, wanted = pruned_regression()
    zeros = layer.weight == 0
    chosen = quantize_kmeans({"w": layer.weight.detach().numpy()}, 5)
    trained = TrainedAssignments({"w": layer.weight}, chosen)
    values = torch.from_numpy(chosen["w"].values)
    first = F.mse_loss(layer(x), wanted).item()
    optimizer = torch.optim.SGD([layer.weight], lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=500)
    trained.attach(optimizer)
    for _ in range(500):
        layer.zero_grad()
        F.mse_loss(layer(x), wanted).backward()
        optimizer.step()
        schedule.step()
        assert torch.isin(layer.weight[~zeros], values).all()
        assert torch.equal(layer.weight == 0, zeros)
    assert F.mse_loss(layer(x), wanted).item() < 0.6 * first
    found = trained.shared()["w"]
    assert not np.array_equal(found.codes, chosen["w"].codes)
    before = layer.weight.detach().clone()
    SharedWeights({"w": layer.weight}, {"w": found})
    assert torch.equal(layer.weight, before)


def test_a_weight_takes_another_entry_past_the_middle() -> None:
    weight = nn.Parameter(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    trained = TrainedAssignments({"w": weight}, quantize_kmeans({"w": weight.detach().numpy()}, 3))
    for step, expected in ((0.4, 1.0), (0.2, 2.0)):
        trained.restore()
        with torch.no_grad():
            weight[:3] += step
        trained.write()
        assert weight.tolist() == [-1.0, 0.0, expected, 2.0]
    assert trained.shared()["w"].values.tolist() == [-1.0, 2.0]  # none is left at 1
    assert trained.shared()["w"].codes.tolist() == [1, 0, 2, 2]


def test_a_layer_without_weights_stays_so() -> None:
    weight = nn.Parameter(torch.zeros(3, 2))
    trained = TrainedAssignments({"w": weight}, quantize_kmeans({"w": weight.detach().numpy()}, 3))
    trained.restore()
    with torch.no_grad():
        weight += 1
    trained.write()
    assert not weight.any()
    assert not trained.shared()["w"].codes.any()
    assert len(trained.shared()["w"].values) == 0


def test_assignments_go_through_a_checkpoint() -> None:
    layer, x, wanted = pruned_regression()
    chosen = quantize_kmeans({"w": layer.weight.detach().numpy()}, 5)
    other = nn.Parameter(layer.weight.detach().clone())
    trained = TrainedAssignments({"w": layer.weight}, chosen)
    optimizer = torch.optim.SGD([layer.weight], lr=0.1)
    handles = trained.attach(optimizer)
    for _ in range(20):
        layer.zero_grad()
        F.mse_loss(layer(x), wanted).backward()
        optimizer.step()
    for handle in handles:
        handle.remove()
    resumed = TrainedAssignments({"w": other}, chosen)
    assert not torch.equal(other, layer.weight)
    resumed.load_state_dict(trained.state_dict())
    assert torch.equal(other, layer.weight)
    resumed.restore()
    trained.restore()
    assert torch.equal(other, layer.weight)
    before = other.detach().clone()
    optimizer.step()  # detached: a plain step
    assert len(layer.weight.unique()) > 6
    with pytest.raises(ValueError, match=r"missing free weights in state_dict: \['w'\]"):
        resumed.load_state_dict({})
    with pytest.raises(ValueError, match=r"w: the free weights have shape \(3,\), expected"):
        resumed.load_state_dict({"w": torch.zeros(3)})
    assert torch.equal(other, before)


def test_codes_of_another_shape_are_refused() -> None:
    chosen = quantize_kmeans({"w": np.ones((2, 2), np.float32)}, 3)
    weight = nn.Parameter(torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"w: the codes have shape \(2, 2\), expected \(3, 2\)"):
        TrainedAssignments({"w": weight}, chosen)
    with pytest.raises(ValueError, match=r"no codes are given for \['v'\]"):
        TrainedAssignments({"v": weight}, chosen)
