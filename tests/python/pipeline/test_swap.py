"""Compressed modules in the places of dense ones: ties of weights and biases, settings, undoing."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import WIDTH, bytes_of, two_linears, vectors
from torch import nn
from torch.nn.utils import prune

import tersor
from tersor import Config, LayerConfig
from tersor.io import container
from tersor.pipeline.select import tensor_bytes

FEW = Config(biases=LayerConfig(codebook_size=3))


def stored_bytes(model: nn.Module, path: Path) -> int:
    """Of all tensors of a model's file."""
    tersor.save(model, path)
    with container.open(path) as file:
        return sum(view.nbytes for view in file.tensors.values())


@pytest.mark.parametrize("config", [Config(), Config(density=0.3), Config(target_ratio=9), FEW])
@pytest.mark.parametrize("data", [None, [vectors()]])
@pytest.mark.parametrize("tied", [False, True])
def test_an_estimate_is_the_bytes_of_the_file(
    config: Config, data: list[torch.Tensor] | None, tied: bool, tmp_path: Path
) -> None:
    model = two_linears(tied=tied)
    before = bytes_of(model)
    estimate = tersor.estimate(model, config, data=data)
    assert bytes_of(model) == before
    assert type(model[0]) is nn.Linear
    assert estimate.dense_bytes == tensor_bytes(model)
    assert 0 < estimate.compressed_bytes < estimate.dense_bytes
    tersor.compress_(model, config, data=data)
    assert estimate.compressed_bytes == stored_bytes(model, tmp_path / "m")
    assert list(estimate.layers) == (["0"] if tied else ["0", "2"])
    assert estimate.layers["0"] == model[0].info
    assert str(estimate).splitlines()[-1].startswith(f"{estimate.dense_bytes:,} -> ")


def test_a_tie_stays_through_everything(tmp_path: Path) -> None:
    dense = two_linears(tied=True)
    model: Any = tersor.compress_(copy.deepcopy(dense))
    size = stored_bytes(model, tmp_path / "m")
    for made in (
        model,
        copy.deepcopy(model),
        tersor.load_model(tmp_path / "m", two_linears(tied=True)),
        tersor.load_model(tmp_path / "m", two_linears()),
        copy.deepcopy(tersor.load_model(tmp_path / "m", two_linears())),
    ):
        assert made[0].weight_blob is made[2].weight_blob
        assert made[0].packed is made[2].packed
        assert stored_bytes(made, tmp_path / "again") == size
        back: Any = tersor.decompress_(copy.deepcopy(made))
        assert back[0].weight is back[2].weight
        assert tensor_bytes(back) == tensor_bytes(dense)


def test_a_trained_codebook_comes_back_as_one_dense_weight() -> None:
    model: Any = tersor.compress_(two_linears(tied=True))
    with torch.no_grad():
        model[0].train_values().mul_(2)
    expected = model[0].dense_weight()
    tersor.decompress_(model)
    assert model[0].weight is model[2].weight
    assert torch.equal(model[0].weight, expected)


def test_assigning_a_dense_weight_gives_one_clear_error() -> None:
    model: Any = tersor.compress_(
        nn.Sequential(nn.Embedding(64, 64, max_norm=9.0), nn.Linear(64, 64))
    )
    before = bytes_of(model)
    with pytest.raises(RuntimeError, match=r"decompress_\(model\) before weights are .* tied"):
        model[1].weight = model[0].weight
    assert bytes_of(model) == before
    model[1].weight = model[1].weight
    assert bytes_of(model) == before


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
def test_layers_of_one_parameter_share_one_blob(kind: Any) -> None:
    options = (64, 64) if kind is nn.Linear else (16, 64, 3)
    model = nn.Sequential(kind(*options), kind(*options), kind(*options))
    model[2].weight = model[0].weight
    tersor.compress_(model)
    assert model[0].weight_blob is model[2].weight_blob
    assert model[1].weight_blob is not model[0].weight_blob


def test_one_weight_in_convolutions_of_other_geometry() -> None:
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Conv2d(8, 64, 3), nn.Conv2d(16, 64, 3, stride=2, groups=2)])
    model[1].weight = model[0].weight
    tersor.compress_(model)
    dense: Any = tersor.decompress_(copy.deepcopy(model))
    for i, channels in enumerate((8, 16)):
        x = torch.randn(1, channels, 9, 9)
        assert torch.allclose(model[i](x), dense[i](x), atol=1e-5)
    assert dense[0].weight is dense[1].weight


# ---- Biases


def with_tied_biases() -> Any:
    model = two_linears()
    model[2].bias = model[0].bias
    return model


def test_a_tied_bias_stays_one_parameter(tmp_path: Path) -> None:
    for config in (Config(), FEW):
        model: Any = tersor.compress_(with_tied_biases(), config)
        assert model[0].bias is model[2].bias
        assert (model[0].bias.unique().numel() <= 4) == (config is FEW)
        tersor.save(model, tmp_path / "m")
        loaded: Any = tersor.load_model(tmp_path / "m", with_tied_biases())
        assert loaded[0].bias is loaded[2].bias
        assert torch.equal(loaded[0].bias, model[0].bias)


def test_a_bias_that_a_dense_layer_shares_is_not_quantized() -> None:
    model = with_tied_biases()
    before = model[0].bias.detach().clone()
    tersor.compress_(model, Config(biases=FEW.biases, overrides={"2": None}))
    assert model[0].bias is model[2].bias
    assert torch.equal(model[0].bias, before)


def test_a_bias_that_is_not_finite_names_itself_and_changes_nothing() -> None:
    model = two_linears()
    with torch.no_grad():
        model[2].bias[3] = float("nan")
    before = bytes_of(model)
    with pytest.raises(ValueError, match=r"2\.bias"):
        tersor.compress_(model, FEW)
    assert bytes_of(model) == before
    assert type(model[0]) is nn.Linear


# ---- Layers that would grow


@pytest.mark.parametrize("data", [None, [torch.randn(40, 6)]])
@pytest.mark.parametrize("tied", [False, True])
def test_what_would_grow_stays_as_it_is(
    data: list[torch.Tensor] | None, tied: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 400))
    if tied:
        model[1].weight = model[0].weight
    before = bytes_of(model)
    size = stored_bytes(model, tmp_path / "dense")
    estimate = tersor.estimate(model, data=data)
    tersor.compress_(model, data=data)
    after = bytes_of(model)
    assert {name: after[name] for name in after if name[0] in "01"} == {
        name: before[name] for name in before if name[0] in "01"
    }
    assert (model[0].weight is model[1].weight) == tied
    assert stored_bytes(model, tmp_path / "small") == estimate.compressed_bytes < size
    assert os.path.getsize(tmp_path / "small") < os.path.getsize(tmp_path / "dense")
    reasons = [layer.reason or "" for layer in tersor.report(model).layers]
    assert [reason.startswith("would not get smaller") for reason in reasons] == [True, True, False]
    assert estimate.left.keys() == {"0", "1"}


@pytest.mark.parametrize("root", [False, True])
def test_a_layer_whose_weight_is_computed_stays_so_where_it_would_grow(root: bool) -> None:
    layer = nn.Linear(4, 4)
    prune.l1_unstructured(layer, "weight", 0.5)
    model = layer if root else nn.Sequential(layer, nn.Linear(4, 400))
    before = bytes_of(model)
    made = tersor.compress_(model)
    assert (made if root else made[0]) is layer
    assert {name: bytes_of(layer)[name] for name in bytes_of(layer)} == {
        name.removeprefix("0."): value for name, value in before.items() if name[:2] != "1."
    }
    assert prune.is_pruned(layer)


@pytest.mark.slow
def test_a_target_counts_layers_that_would_grow_as_they_stay(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(5, 5) for _ in range(20)), nn.Linear(WIDTH, 200))
    tersor.compress_(model, Config(target_bytes=7000))
    tersor.save(model, tmp_path / "m")
    assert 6000 < os.path.getsize(tmp_path / "m") <= 7000


# ---- Gradients


@pytest.mark.parametrize("trainable", [False, True])
def test_parameters_are_frozen_unless_they_are_to_be_trained(trainable: bool) -> None:
    model: Any = two_linears()
    model[2].bias.requires_grad_(False)
    tersor.compress_(model, trainable=trainable)
    assert model[0].bias.requires_grad == trainable
    tersor.compress_(model)  # nothing more to do
    tersor.decompress_(model)
    assert model[0].bias.requires_grad
    assert model[0].weight.requires_grad
    assert not model[2].bias.requires_grad


def test_parts_that_were_compressed_alone_come_back_too() -> None:
    model = nn.Sequential(two_linears(), nn.Linear(WIDTH, WIDTH))
    tersor.compress_(model[0], Config(overrides={"2": None}))
    tersor.compress_(model, Config(overrides={"1": None, "0.2": None}))
    assert {layer.name: layer.reason for layer in tersor.report(model).layers} == {
        "0.0": None,
        "0.2": "left out by the settings",
        "1": "left out by the settings",
    }
    tersor.decompress_(model)
    assert all(p.requires_grad for p in model.parameters())
    assert tersor.report(model).layers[0].reason == "not compressed yet"


@pytest.mark.parametrize("fused", [False, True])
def test_a_root_layer_comes_back_with_gradients(fused: bool) -> None:
    model: Any = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) if fused else nn.Linear(64, 64)
    made = tersor.compress_(model)
    back = tersor.decompress_(tersor.fuse_(made))
    assert all(p.requires_grad for p in back.parameters())
