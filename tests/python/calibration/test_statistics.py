"""Moments of a layer's inputs against those of the inputs written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.calibration import statistics
from tersor.calibration.statistics import input_statistics


def test_a_matrix_sees_every_row_of_every_batch() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    x = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(0))
    found = input_statistics(model, model[2], [x[:1], x[1:]])
    assert found is not None
    with torch.no_grad():
        seen = model[1](model[0](x)).reshape(14, 5)
    assert found.count == 14
    assert torch.allclose(found.mean[0], seen.mean(0), atol=1e-6)
    assert torch.allclose(found.second[0][0], seen.T @ seen / 14, atol=1e-6)


def test_the_moments_of_patches_give_the_power_of_a_convolution() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False)
    x = torch.randn(5, 4, 9, 9)
    found = input_statistics(layer, layer, [x])
    assert found is not None
    outputs = F.conv2d(x, layer.weight, stride=2, padding=1, groups=2).detach()
    weight = layer.weight.detach().view(2, 3, 18)
    power = torch.einsum("gri,gij,grj->gr", weight, found.second[0], weight)
    assert torch.allclose(power.flatten(), outputs.square().mean((0, 2, 3)), rtol=1e-4)
    mean = torch.einsum("gri,gi->gr", weight, found.mean)
    assert torch.allclose(mean.flatten(), outputs.mean((0, 2, 3)), atol=1e-5)


def test_wide_layers_have_moments_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MAX_INPUTS", 4)
    layer, x = nn.Linear(10, 2), torch.randn(20, 10)
    found = input_statistics(layer, layer, [x])
    assert found is not None
    assert [s.shape for s in found.second] == [(1, 4, 4), (1, 4, 4), (1, 2, 2)]
    assert torch.allclose(found.second[2][0], x[:, 8:].T @ x[:, 8:] / 20, atol=1e-6)


def test_a_layer_that_is_never_called_has_none() -> None:
    assert input_statistics(nn.Identity(), nn.Linear(3, 3), [torch.zeros(1, 3)]) is None
