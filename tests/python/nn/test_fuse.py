"""Activations that move into the layers before them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import tersor
from tersor.nn import CompressedLinear


def _model(activation: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 64, 3), activation, nn.Flatten(), nn.Linear(576, 64))
    return nn.Sequential(body, nn.ReLU(), nn.Linear(64, 64), copy.deepcopy(activation), nn.ReLU())


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.GELU(), nn.SiLU()])
def test_fused_models_compute_the_same(activation: nn.Module) -> None:
    model = tersor.compress_(_model(activation)).eval()
    x = torch.randn(3, 2, 5, 5) * 4
    with torch.no_grad():
        expected = model(x)
        assert tersor.fuse_(model) is model
        assert torch.allclose(model(x), expected, atol=1e-5)
    # The ReLU after a whole block and the second one in a row stay.
    kinds = [type(m) for m in model.modules()]
    assert kinds.count(nn.Identity) == 2
    assert type(model[1]) is nn.ReLU
    assert type(model[4]) is nn.ReLU


def test_what_cannot_be_fused_stays() -> None:
    shared = nn.Linear(40, 40)
    hooked = nn.ReLU()
    hooked.register_forward_hook(lambda *_: None)
    model = nn.Sequential(
        shared, nn.ReLU(), shared, nn.Linear(40, 40), nn.GELU("tanh"), nn.Linear(40, 40), hooked
    )
    tersor.fuse_(tersor.compress_(model))
    assert not [m for m in model if type(m) is nn.Identity]
    assert {m.activation for m in model if isinstance(m, CompressedLinear)} == {"none"}


def test_decompressing_gives_the_activation_back() -> None:
    model = tersor.fuse_(tersor.compress_(_model(nn.SiLU()))).eval()
    x = torch.randn(3, 2, 5, 5)
    with torch.no_grad():
        expected = model(x)
        assert torch.allclose(tersor.decompress_(model)(x), expected, atol=1e-5)


def test_the_state_does_not_change() -> None:
    model = tersor.compress_(_model(nn.ReLU()))
    before = model.state_dict()
    after = tersor.fuse_(model).state_dict()
    assert list(before) == list(after)
