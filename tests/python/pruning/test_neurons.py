from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tersor.pruning.neurons import remove_dead_neurons_, sort_neurons_


def pair(kind: str) -> nn.Sequential:
    torch.manual_seed(0)
    if kind == "linear":
        net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    elif kind == "conv":
        net = nn.Sequential(nn.Conv2d(2, 8, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 3, 2))
    else:
        net = nn.Sequential(
            nn.Conv2d(2, 8, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 3)
        )
    net = net.double()
    with torch.no_grad():
        net[0].weight[2] = 0  # a constant: its bias is made positive
        net[0].bias[2] = 0.7
        net[0].weight[5] = 0  # a constant that the ReLU stops
        net[0].bias[5] = -0.7
        taps = net[-1].weight.shape[1] // 8
        net[-1].weight[:, 3 * taps : 4 * taps] = 0  # nobody looks at it
    return net


def inputs(kind: str) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(*((6, 5) if kind == "linear" else (6, 2, 5, 5)), dtype=torch.float64)


KINDS = ["linear", "conv", "flattened"]


@pytest.mark.parametrize("kind", KINDS)
def test_removing_dead_neurons_keeps_the_outputs(kind: str) -> None:
    net, x = pair(kind), inputs(kind)
    before = net(x).detach()
    assert remove_dead_neurons_(net[0], net[-1]) == 3
    torch.testing.assert_close(net(x), before)
    for unit in (2, 3, 5):
        taps = net[-1].weight.shape[1] // 8
        assert not net[0].weight[unit].any()
        assert net[0].bias[unit] == 0
        assert not net[-1].weight[:, unit * taps : (unit + 1) * taps].any()
    assert net[0].weight[0].any()
    assert remove_dead_neurons_(net[0], net[-1]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_sorting_neurons_keeps_the_outputs(kind: str) -> None:
    net, x = pair(kind), inputs(kind)
    before, old = net(x).detach(), copy.deepcopy(net)
    order = sort_neurons_(net[0], net[-1])
    torch.testing.assert_close(net(x), before)
    counts = (net[0].weight.flatten(1) != 0).sum(1)
    assert (counts.diff() <= 0).all()
    assert torch.equal(net[0].weight, old[0].weight[order])
    assert set(order[-2:].tolist()) == {2, 5}


def test_a_constant_that_cannot_be_folded_is_kept() -> None:
    padded = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1))
    no_bias = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))
    for net, x in ((padded, torch.randn(2, 1, 4, 4)), (no_bias, torch.randn(2, 3))):
        with torch.no_grad():
            net[0].weight[0] = 0
            net[0].bias[0] = 1.0
        before = net(x).detach()
        assert remove_dead_neurons_(net[0], net[2]) == 0
        assert torch.equal(net(x), before)
        with torch.no_grad():
            net[0].bias[0] = -1.0  # now the ReLU makes it zero
        before = net(x).detach()
        assert remove_dead_neurons_(net[0], net[2]) == 1
        torch.testing.assert_close(net(x), before)


def test_the_folded_constant_depends_on_the_activation() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Sigmoid(), nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight[1] = 0
    x = torch.randn(4, 3)
    before = net(x).detach()
    assert remove_dead_neurons_(net[0], net[2], torch.sigmoid) == 1
    assert not net[2].weight[:, 1].any()
    torch.testing.assert_close(net(x), before)


def test_mismatched_layers_are_rejected() -> None:
    with pytest.raises(ValueError, match="8 neurons do not divide the consumer's 9 inputs"):
        sort_neurons_(nn.Linear(3, 8), nn.Linear(9, 2))
    with pytest.raises(ValueError, match="not in Conv2d"):
        remove_dead_neurons_(nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(4, 2, 1))
