"""Trained weight sharing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.share import SharedWeights


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
