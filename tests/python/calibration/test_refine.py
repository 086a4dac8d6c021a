"""Norms and biases that are tuned after the weights of a block are quantized."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import tersor
from tersor import Config, LayerConfig
from tersor.calibration.refine import refine_, tuned_parameters

COARSE = Config(linear=LayerConfig(method="ecsq", prune=True, bits=1.0, codebook_size=15))


class Mixer(nn.Module):
    """A block with a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(48), nn.Linear(48, 48)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc(self.norm(x)).tanh()


def model() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(*(Mixer() for _ in range(3)))


def inputs(seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    mixing = torch.randn(12, 48, generator=torch.Generator().manual_seed(9))
    return torch.randn(200, 12, generator=g) @ mixing + 1


def test_outputs_get_nearer_and_only_vectors_change() -> None:
    dense, errors = model(), []
    for steps in (0, 30):
        made = tersor.compress_(
            copy.deepcopy(dense), COARSE, data=list(inputs(1).split(50)), refine_steps=steps
        )
        with torch.no_grad():
            errors.append(float((made(inputs(2)) - dense(inputs(2))).square().mean()))
    assert errors[1] < 0.97 * errors[0]
    assert not torch.equal(made[0].norm.weight, dense[0].norm.weight)


def test_an_estimate_leaves_the_norms() -> None:
    made = model()
    before = copy.deepcopy(made.state_dict())
    tersor.estimate(made, COARSE, data=[inputs(1)], refine_steps=5)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


def test_what_gets_no_better_stays() -> None:
    block = Mixer()
    x = inputs(1)
    with torch.no_grad():
        target = block(x)
    before = copy.deepcopy(block.state_dict())
    parameters = tuned_parameters(block)
    assert len(parameters) == 3
    refine_(parameters, lambda _: block(x), [target], steps=3)
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in parameters)


def test_steps_without_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="refine_steps is for calibration"):
        tersor.compress_(model(), COARSE, refine_steps=5)
