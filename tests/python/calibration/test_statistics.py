"""Statistics of a layer's inputs against those of the inputs written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from calibration.memory import LargestTensor
from torch import nn

from tersor.calibration import statistics
from tersor.calibration.statistics import call_order, input_statistics
from tersor.nn import registry


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


def test_the_second_moments_of_patches_give_the_power_of_a_convolution() -> None:
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


def test_wide_layers_have_second_moments_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MAX_INPUTS", 4)
    layer, x = nn.Linear(10, 2), torch.randn(20, 10)
    found = input_statistics(layer, layer, [x])
    assert found is not None
    assert [s.shape for s in found.second] == [(1, 4, 4), (1, 4, 4), (1, 2, 2)]
    assert torch.allclose(found.second[2][0], x[:, 8:].T @ x[:, 8:] / 20, atol=1e-6)


def test_a_layer_that_is_never_called_has_none() -> None:
    assert input_statistics(nn.Identity(), nn.Linear(3, 3), [torch.zeros(1, 3)]) is None


PADDINGS = {"same": (1, 2), "valid": (0, 0), (1, 2): (1, 2), 0: (0, 0)}  # high, wide


@pytest.mark.parametrize("padding", PADDINGS, ids=str)
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_patches_are_those_of_the_padded_image(padding: Any, mode: str) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, (3, 5), padding=padding, padding_mode=mode, bias=False)
    x = torch.randn(4, 2, 9, 8)
    found = input_statistics(layer, layer, [x[:3], x[3]])  # the last one without a batch
    assert found is not None
    high, wide = PADDINGS[padding]
    how = "constant" if mode == "zeros" else mode
    padded = F.pad(x, (wide, wide, high, high), how)
    patches = F.unfold(padded, (3, 5)).transpose(1, 2).flatten(0, 1)
    assert found.count == len(patches)
    assert torch.allclose(found.mean[0], patches.mean(0), atol=1e-6)
    assert torch.allclose(found.second[0][0], patches.T @ patches / len(patches), atol=1e-5)


def test_a_batch_is_not_unfolded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "PATCH_ELEMENTS", 20000)
    monkeypatch.setattr(statistics, "LEAST_PATCHES", 100 * 144)
    layer, x = nn.Conv2d(4, 4, 5, padding=2), torch.randn(100, 4, 12, 12)
    patches = 100 * 144 * 100
    with LargestTensor() as largest:
        found = input_statistics(layer, layer, [x])
    assert found is not None
    assert found.count == 100 * 144
    assert largest.size < 0.1 * patches


def test_of_very_many_patches_some_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(4, 4, 3), torch.randn(50, 4, 20, 20).cumsum(2)
    monkeypatch.setattr(statistics, "LEAST_PATCHES", 1 << 14)
    whole = input_statistics(layer, layer, [x])
    monkeypatch.setattr(statistics, "LEAST_PATCHES", 1200)
    some = input_statistics(layer, layer, [x])
    assert whole is not None
    assert some is not None
    assert 1200 <= some.count < 2 * 1200
    assert layer.stride == (1, 1)
    assert float((some.second[0] - whole.second[0]).norm() / whole.second[0].norm()) < 0.2


@pytest.mark.parametrize("every", [(1, 1), (2, 1), (2, 3)])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_thinned_patches_are_spread_evenly(
    every: tuple[int, int], kernel: int, groups: int
) -> None:
    torch.manual_seed(0)
    signals = nn.Conv1d(4, 4, kernel, 2, padding=1, groups=groups)
    images = nn.Conv2d(4, 4, kernel, (1, 2), padding=1, groups=groups)
    for layer, x in ((signals, torch.randn(3, 4, 29)), (images, torch.randn(3, 4, 17, 29))):
        handler = registry.handler_of(layer)
        assert isinstance(handler, registry.Conv2dHandler)
        (whole,) = handler.samples(layer, x)
        places = layer(x).shape[2:]
        (some,) = handler.samples(layer, x, every[: len(places)])
        grid = whole.view(groups, 3, *places, -1)
        for axis in range(len(places)):
            taken = slice((every[axis] - 1) // 2, None, every[axis])
            grid = grid[(slice(None),) * (2 + axis) + (taken,)]
        assert torch.equal(some, grid.flatten(1, -2))


def test_nearly_constant_inputs_keep_what_varies() -> None:
    torch.manual_seed(0)
    varies = torch.randn(4000, 5) * 1e-2
    layer = nn.Linear(5, 3)
    found = input_statistics(layer, layer, [varies[:3000] + 6, varies[3000:] + 6])
    assert found is not None
    centred = found.second[0][0].double() - found.mean[0].double().outer(found.mean[0].double())
    expected = torch.cov((varies + 6).double().T, correction=0)
    assert float((centred - expected).abs().max()) < 6 * 36 * 2.0**-24


class Odd(nn.Module):
    """Layers called by keyword, twice, on no rows, and never."""

    def __init__(self) -> None:
        super().__init__()
        self.keyword, self.twice = nn.Linear(6, 6), nn.Linear(6, 6)
        self.no_rows, self.never = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.twice(self.twice(self.keyword(input=x)))
        self.no_rows(y[:0])
        return y


@torch.no_grad()
def test_calls_by_keyword_and_several_calls_count() -> None:
    torch.manual_seed(0)
    model, x = Odd(), torch.randn(20, 6)
    h = model.keyword(x)
    for layer, seen in {model.keyword: x, model.twice: torch.cat([h, model.twice(h)])}.items():
        found = input_statistics(model, layer, [x[:5], x[5:]])
        assert found is not None
        assert found.count == len(seen)
        assert torch.allclose(found.mean[0], seen.mean(0), atol=1e-6)
        assert torch.allclose(found.second[0][0], seen.T @ seen / len(seen), atol=1e-6)
    for layer in (model.no_rows, model.never):
        assert input_statistics(model, layer, [x]) is None
    assert call_order(model, model.children(), [x]) == [model.keyword, model.twice]
    assert not any(module._forward_pre_hooks for module in model.modules())


class Ways(nn.Module):
    """Calls its layers in the order of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(6))

    def forward(self, x: torch.Tensor, way: list[int]) -> torch.Tensor:
        for i in way:
            x = self.layers[i](x)
        return x


@pytest.mark.parametrize(("ways", "order"), [
    ([[0, 5]], [0, 5]),
    ([[0, 5], [0, 3, 5]], [0, 3, 5]),
    ([[0, 5], [3, 0, 4, 5, 1]], [3, 0, 4, 5, 1]),
    ([[0, 1, 4], [0, 2, 4], [0, 3, 4]], [0, 3, 2, 1, 4]),
    ([[0, 1], [1, 0]], [0, 1]),
    ([[5, 2, 5, 2]], [5, 2]),
], ids=str)  # fmt: skip
def test_a_layer_comes_after_those_that_run_before_it(
    ways: list[list[int]], order: list[int]
) -> None:
    model = Ways()
    found = call_order(model, model.layers, [(torch.zeros(1, 2), way) for way in ways])
    assert found == [model.layers[i] for i in order]


def test_layers_of_other_types_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Embedding(3, 4))
    with pytest.raises(ValueError, match="table: errors in Embedding layers cannot be compensated"):
        input_statistics(model, model[0], [torch.zeros(1, dtype=torch.long)], "table")


def test_statistics_of_bfloat16_inputs_are_float32() -> None:
    layer, x = nn.Linear(6, 5).bfloat16(), torch.randn(8, 6).bfloat16()
    found = input_statistics(layer, layer, [x])
    assert found is not None
    assert found.mean.dtype == found.second[0].dtype == torch.float32
    assert torch.allclose(found.second[0][0], x.float().T @ x.float() / 8, atol=1e-6)
