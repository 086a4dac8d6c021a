"""Slopes against the Jacobian written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tersor.calibration.blocks import Inputs
from tersor.calibration.slopes import output_slopes


def test_slopes_are_the_squares_of_the_jacobian() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh())
    x = torch.randn(1, 6)
    # The mean over 32 samples, each with signs of its own.
    found = output_slopes(model, {model[0]: -1, model[2]: -1}, Inputs([x] * 32))
    jacobian = torch.autograd.functional.jacobian(model[1:], model[0](x).detach()[0])
    expected = jacobian.square().sum(0).double()
    assert torch.allclose(found[model[0]], expected, rtol=0.7)
    assert float((found[model[0]] / expected).mean()) == pytest.approx(1.0, abs=0.25)


def test_convolutions_and_tables_have_slopes_for_their_channels() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 6), nn.Conv2d(1, 3, 3, padding=1))

    def forward(m: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = (
            model[1](model[0](batch)[:, None]) * torch.tensor([1.0, 2, 0])[:, None, None]
        )
        return y

    data = [torch.randint(0, 7, (16, 5))]
    found = output_slopes(model, {model[0]: -1, model[1]: -3}, Inputs(data, forward))
    assert found[model[0]].shape == (6,)
    assert torch.allclose(found[model[1]], torch.tensor([30.0, 120.0, 0.0]).double())


def test_a_model_without_gradients_has_none() -> None:
    model = nn.Sequential(nn.Linear(6, 5))
    data = Inputs([torch.randn(4, 6)], lambda m, batch: m(batch).argmax(1))
    assert output_slopes(model, {model[0]: -1}, data) == {}
