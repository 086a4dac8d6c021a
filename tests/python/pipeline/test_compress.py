"""Swapping the layers of a model for compressed ones, and back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import images, net, same, two_linears
from torch import nn

import tersor
from tersor import Config, LayerConfig
from tersor.io import container
from tersor.io.checkpoint import stored_bytes
from tersor.pipeline.select import tensor_bytes
from tersor.pruning.masks import threshold_mask


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_name_the_layer_and_change_nothing(bad: float) -> None:
    model = net()
    with torch.no_grad():
        model.fc.weight[0, 0] = bad
    with pytest.raises(ValueError, match="fc: .*NaN"):
        tersor.compress_(model)
    assert type(model.conv) is nn.Conv2d


def test_compress_swaps_in_place_and_keeps_sharing() -> None:
    model = net()
    with torch.no_grad():  # a codebook already, so that nothing is lost
        model.fc.weight.copy_((model.fc.weight * 50).round() / 50)
        model.conv.weight.copy_((model.conv.weight * 50).round() / 50)
    dense = copy.deepcopy(model)
    assert tersor.compress_(model) is model
    assert model.fc is model.again
    assert isinstance(model.fc, tersor.nn.CompressedLinear)
    assert isinstance(model.conv, tersor.nn.CompressedConv2d)
    assert same(model, dense)
    assert type(tersor.decompress_(model).fc) is nn.Linear
    assert same(model, dense)


def test_a_root_that_is_a_layer_and_patterns_and_filters() -> None:
    assert isinstance(tersor.compress_(nn.Linear(30, 20)), tersor.nn.CompressedLinear)
    model = tersor.compress_(net(), Config(overrides={"f*": None}))
    assert type(model.fc) is nn.Linear
    model = tersor.compress_(net(), filter_fn=lambda module, name: name != "conv")
    assert type(model.conv) is nn.Conv2d


def test_estimate_is_the_real_size(tmp_path: Path) -> None:
    model = net()
    estimate = tersor.estimate(model)
    assert type(model.conv) is nn.Conv2d
    tersor.compress_(model)
    assert estimate.layers["conv"] == model.conv.info
    tersor.save(model, tmp_path / "m.safetensors")
    with container.open(tmp_path / "m.safetensors") as file:
        stored = sum(view.nbytes for view in file.tensors.values())
    assert estimate.compressed_bytes == stored
    assert estimate.dense_bytes == tensor_bytes(net())


@pytest.mark.parametrize("bias", [True, False])
def test_decompress_gives_back_type_and_frozen_biases(bias: bool) -> None:
    dense = nn.Sequential(nn.Linear(4, 3, bias=bias).to(torch.bfloat16))
    if bias:
        dense[0].bias.requires_grad_(False)
    model = tersor.compress_(copy.deepcopy(dense), Config(linear=LayerConfig(codebook_size=12)))
    back = tersor.decompress_(model)
    assert torch.equal(back[0].weight, dense[0].weight)
    assert back[0].weight.dtype == torch.bfloat16
    assert not bias or not back[0].bias.requires_grad


def test_a_model_swapped_in_inference_mode_outlives_it() -> None:
    model = net()
    with torch.inference_mode():
        tersor.compress_(model)
        inside = model(images())
    assert torch.allclose(model(images()), inside, atol=1e-6)
    x = images().requires_grad_()
    model(x).sum().backward()
    assert x.grad is not None


def test_a_transformer_runs_compressed_past_its_fused_paths() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True).eval()
    x = torch.randn(2, 5, 32)
    with torch.no_grad():  # few values, so that nothing is lost
        for parameter in model.parameters():
            parameter.copy_((parameter * 50).round() / 50)
    expected = copy.deepcopy(model)
    tersor.compress_(model)
    assert isinstance(model.layers[0].linear1, tersor.nn.CompressedLinear)
    with torch.no_grad():
        assert torch.allclose(model(x), expected(x), atol=1e-5)


def test_importance_counts_in_the_estimate_as_in_the_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20))
    importance = {"0.weight": torch.where(model[0].weight > 0.1, 1.0, 0.0)}
    config = Config(linear=LayerConfig(method="kmeans"))
    plain = tersor.compress_(copy.deepcopy(model), config)
    estimate = tersor.estimate(model, config, importance=importance)
    made = tersor.compress_(copy.deepcopy(model), config, importance=importance)
    assert [estimate.layers[name] for name in ("0", "2")] == [made[0].info, made[2].info]
    matters = importance["0.weight"].bool()
    errors = [(m[0].dense_weight() - model[0].weight)[matters].std() for m in (plain, made)]
    assert errors[1] < 0.7 * errors[0]
    assert torch.equal(plain[2].weight_blob, made[2].weight_blob)


def test_a_density_of_all_layers_keeps_the_largest_of_all() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20), nn.Linear(20, 5))
    with torch.no_grad():
        model[2].weight.mul_(3)
    own = LayerConfig(density=0.5)
    dense = [model[i].weight.detach() for i in (0, 2)]
    tersor.compress_(model, Config(density=0.25, overrides={"3": own}))
    kept = [model[i].dense_weight() != 0 for i in (0, 2)]
    assert sum(int(k.sum()) for k in kept) == round(0.25 * 1800)
    assert min(float(w.abs()[k].min()) for w, k in zip(dense, kept, strict=True)) >= max(
        float(w.abs()[~k].max()) for w, k in zip(dense, kept, strict=True)
    )
    assert model[3].info.nonzeros == 50


def test_a_threshold_counts_in_deviations_of_the_layer() -> None:
    model = nn.Sequential(nn.Linear(40, 30))
    mask = threshold_mask(model[0].weight, 1.2)
    tersor.compress_(model, Config(linear=LayerConfig(threshold=1.2)))
    assert torch.equal(model[0].dense_weight() != 0, mask)
    with pytest.raises(ValueError, match="either density or threshold"):
        LayerConfig(threshold=1.0, density=0.5)
    with pytest.raises(ValueError, match="density must be 0 to 1"):
        Config(density=1.5)


@pytest.mark.parametrize("method", ["kmeans", "uniform", "ecsq"])
def test_all_layers_as_one_problem_share_one_set_of_values(method: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20), nn.Linear(20, 5))
    before = copy.deepcopy(model.state_dict())
    one = LayerConfig(method=method, codebook_size=21, kind="shared_fp32")
    config = Config(
        joint_codebook=one,
        linear=LayerConfig(density=0.5),
        overrides={"3": None, "0": LayerConfig(density=0.4)},
    )
    size = tersor.estimate(model, config).compressed_bytes
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    tersor.compress_(model, config)
    assert size == stored_bytes(model)
    values = [set(model[i].dense_weight().unique().tolist()) - {0.0} for i in (0, 2)]
    assert len(values[0] | values[1]) <= 21
    assert len(values[0] & values[1]) >= 0.5 * len(values[1])
    assert model[0].info.nonzeros <= 480
    assert type(model[3]) is nn.Linear
    with pytest.raises(ValueError, match="cannot be combined"):
        Config(joint_codebook=one, target_bytes=1000)


def test_only_settings_that_hold_for_all_layers_are_remembered(tmp_path: Path) -> None:
    """Layers that are compressed already stay as they are, whatever a second call says."""
    few, fewer = (Config(linear=LayerConfig(codebook_size=size)) for size in (7, 3))

    def stored(model: nn.Module) -> Config | None:
        tersor.save(model, tmp_path / "m")
        return tersor.load_file(tmp_path / "m").config

    def first_alone(_: nn.Module, name: str) -> bool:
        return name == "0"

    model: Any = tersor.compress_(two_linears(), few)
    assert stored(tersor.compress_(model, fewer)) == few
    assert model[0].info.clusters == 7
    part = tersor.compress_(two_linears(), few, first_alone)
    assert stored(tersor.compress_(copy.deepcopy(part), few)) == few
    assert stored(tersor.compress_(part, fewer)) is None
    inside = nn.Sequential(tersor.compress_(two_linears(), few))
    assert stored(tersor.compress_(inside, fewer)) is None
    assert stored(tersor.compress_(tersor.decompress_(model), fewer)) == fewer
