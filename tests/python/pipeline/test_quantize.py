"""Codebooks that a weight has already are kept, unless the user gave a number."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from networks import WIDTH, two_linears, vectors
from torch import nn

import tersor
from tersor import Config, LayerConfig
from tersor.training.codebooks import SharedWeights


def of_values(
    count: int, dtype: torch.dtype = torch.float32, zeros: bool = True, conv: bool = False
) -> nn.Module:
    """A layer whose weight has as many distinct non-zero values, all of them in use."""
    generator = torch.Generator().manual_seed(count)
    values = (torch.arange(1, count + 1) / 256).to(dtype)
    values[::2] *= -1
    layer = nn.Conv2d(16, WIDTH, 2, dtype=dtype) if conv else nn.Linear(WIDTH, WIDTH, dtype=dtype)
    codes = torch.arange(WIDTH * WIDTH) % count
    weight = values[codes[torch.randperm(len(codes), generator=generator)]]
    if zeros:
        weight = weight * (torch.rand(len(weight), generator=generator) < 0.9)
    with torch.no_grad():
        layer.weight.copy_(weight.view_as(layer.weight))
    return nn.Sequential(layer)


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 15, 16, 31, 200, 255])
def test_up_to_255_values_are_kept_exactly(
    count: int, dtype: torch.dtype, zeros: bool, conv: bool
) -> None:
    model: Any = of_values(count, dtype, zeros, conv)
    dense = model[0].weight.detach().clone()
    tersor.compress_(model)
    assert torch.equal(tersor.decompress_(model)[0].weight, dense)
    report = tersor.report(tersor.compress_(model)).layers[0]
    assert (report.codebook_size, report.relative_error) == (count, 0.0)


@pytest.mark.parametrize("method", ["kmeans", "uniform", "ecsq"])
@pytest.mark.parametrize("count", [200, 255])
def test_every_method_keeps_them(method: Any, count: int) -> None:
    model: Any = of_values(count)
    dense = model[0].weight.detach().clone()
    tersor.compress_(model, Config(linear=LayerConfig(method=method)))
    assert torch.equal(model[0].dense_weight(), dense)


@pytest.mark.parametrize(
    ("conv", "density", "size"), [(False, 0.4, 15), (True, None, 255), (True, 0.4, 255)]
)
def test_more_values_are_quantized_to_the_default(
    conv: bool, density: float | None, size: int
) -> None:
    model: Any = of_values(300, zeros=False, conv=conv)
    with torch.no_grad():
        model[0].weight.add_(torch.randn_like(model[0].weight) * 1e-3)
    tersor.compress_(model, Config(density=density))
    assert model[0].info.clusters == size


def test_a_matrix_that_is_not_pruned_gets_multiples_of_a_step() -> None:
    model: Any = tersor.compress_(two_linears())
    weight = model[0].dense_weight().double()
    codebook = weight[weight != 0].unique()
    assert 64 < len(codebook) <= 127
    step = codebook.abs().min()
    assert torch.allclose(codebook / step, (codebook / step).round(), rtol=0, atol=1e-4)
    pruned: Any = tersor.compress_(two_linears(), Config(linear=LayerConfig(density=0.6)))
    assert 64 < pruned[0].info.clusters <= 127


@pytest.mark.parametrize(
    "settings",
    [LayerConfig(codebook_size=15), LayerConfig(method="kmeans"), LayerConfig(density=0.4)],
)
def test_what_is_asked_for_or_pruned_gets_k_means(settings: LayerConfig) -> None:
    given, explicit = two_linears(), two_linears()
    tersor.compress_(given, Config(linear=settings))
    kmeans = dataclasses.replace(settings, codebook_size=15, method="kmeans")
    tersor.compress_(explicit, Config(linear=kmeans))
    assert torch.equal(given[0].weight_blob, explicit[0].weight_blob)


def test_with_importance_a_matrix_gets_k_means() -> None:
    importance = {"0.weight": torch.ones(WIDTH, WIDTH)}
    model: Any = tersor.compress_(two_linears(), importance=importance)
    assert (model[0].info.clusters, model[2].info.clusters > 64) == (15, True)


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        (LayerConfig(codebook_size=15), 15),
        (LayerConfig(codebook_size=30), 30),
        (LayerConfig(method="ecsq", bits=2.0), 15),
        (LayerConfig(method="ecsq", penalty=1e-3), 15),
        (LayerConfig(method="uniform", codebook_size=7), 7),
    ],
)
def test_a_number_that_the_user_gave_wins(settings: LayerConfig, most: int) -> None:
    model: Any = tersor.compress_(of_values(31), Config(linear=settings))
    assert model[0].info.clusters <= most
    assert model[0].relative_error > 0


@pytest.mark.parametrize("settings", [LayerConfig(codebook_size=31), LayerConfig(codebook_size=40)])
def test_a_number_that_is_large_enough_keeps_them_too(settings: LayerConfig) -> None:
    model: Any = of_values(31)
    dense = model[0].weight.detach().clone()
    tersor.compress_(model, Config(linear=settings))
    assert torch.equal(model[0].dense_weight(), dense)


def test_trained_codebooks_are_kept_by_default() -> None:
    model: Any = two_linears()
    parameters = {name: model.get_parameter(name) for name in ("0.weight", "2.weight")}
    SharedWeights(parameters, 31).write()
    dense = [model[i].weight.detach().clone() for i in (0, 2)]
    assert dense[0].unique().numel() == 31
    tersor.compress_(model)
    for i, weight in zip((0, 2), dense, strict=True):
        assert torch.equal(model[i].dense_weight(), weight)


def test_pruning_leaves_the_values_of_a_codebook() -> None:
    model: Any = of_values(31)
    values = set(model[0].weight.unique().tolist())
    tersor.compress_(model, Config(linear=LayerConfig(density=0.3)))
    assert set(model[0].dense_weight().unique().tolist()) <= values | {0.0}
    assert model[0].info.nonzeros == round(0.3 * WIDTH * WIDTH)


@pytest.mark.parametrize("count", [31, 255])
def test_calibration_keeps_them_where_nothing_is_pruned(count: int) -> None:
    model: Any = of_values(count)
    dense = model[0].weight.detach().clone()
    tersor.compress_(model, data=[vectors()])
    assert torch.equal(model[0].dense_weight(), dense)
