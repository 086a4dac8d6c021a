"""A line for every layer, with numbers that are those of the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import WIDTH, LanguageModel, Net, net, two_linears, vectors
from torch import nn
from torch.nn.utils import parametrizations, prune

import tersor
from tersor import Config, LayerConfig
from tersor.io import container
from tersor.pipeline.select import tensor_bytes
from tersor.reporting.model_report import ModelReport


class Mixed(nn.Module):
    """Layers that are compressed, refused, too small, attention, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, WIDTH, 3)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.act = nn.ReLU()
        self.tiny = nn.Linear(3, 3)
        self.up = nn.ConvTranspose2d(4, 4, 3)
        self.attention = nn.MultiheadAttention(32, 2)
        self.scale = nn.Parameter(torch.ones(3))


def names_of_layers(model: nn.Module) -> set[str]:
    """Of the modules that hold parameters themselves."""
    return {
        n for n, m in model.named_modules() if any(p is not None for p in m._parameters.values())
    }


def test_every_module_with_parameters_has_a_line() -> None:
    model = Mixed()
    names = names_of_layers(model)
    assert {"", "conv", "norm", "tiny", "up", "attention"} < names
    for made in (model, tersor.compress_(model)):
        report = tersor.report(made)
        assert {layer.name for layer in report.layers} == names
        for layer in report.layers:
            assert layer.compressed == (layer.reason is None)
            assert (layer.name or "Mixed") in str(report)
    reasons = {layer.name: layer.reason for layer in report.layers}
    assert str(reasons["up"]).startswith("would not get smaller (")
    assert reasons["norm"] == "BatchNorm2d layers are not supported"
    assert reasons["tiny"] is not None
    assert reasons["tiny"].startswith("would not get smaller (")
    assert all(reason in str(report) for reason in reasons.values() if reason)


@pytest.mark.parametrize("build", [two_linears, net, LanguageModel, lambda: two_linears(tied=True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_are_those_of_the_file(build: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    model = build().to(dtype)
    dense = tensor_bytes(model)
    tersor.compress_(model)
    tersor.save(model, tmp_path / "m")
    with container.open(tmp_path / "m") as file:
        sizes = {name: view.nbytes for name, view in file.tensors.items()}
    for made in (model, tersor.load_model(tmp_path / "m", build().to(dtype))):
        report = tersor.report(made)
        assert report.stored_bytes == sum(sizes.values())
        assert report.dense_bytes == dense
        assert report.ratio == dense / sum(sizes.values())
        for layer in report.layers:
            if layer.compressed and layer.stored_bytes:
                # A layer of several names is stored under the first in the alphabet.
                assert layer.stored_bytes in sizes.values()
                assert layer.stored_bytes == made.get_buffer(f"{layer.name}.weight_blob").nbytes
                assert layer.bits == 8 * layer.stored_bytes / layer.weights
                assert layer.dense_bytes == layer.weights * dtype.itemsize
        assert sum(layer.dense_bytes for layer in report.layers) <= dense


def test_what_layers_share_counts_once() -> None:
    report = tersor.report(tersor.compress_(two_linears(tied=True)))
    assert [layer.stored_bytes > 0 for layer in report.layers] == [True, False]
    assert report.layers[0].bits == report.layers[1].bits
    report = tersor.report(LanguageModel())
    sizes = {layer.name: layer.stored_bytes for layer in report.layers}
    assert (sizes["embedding"], sizes["head"]) == (300 * WIDTH * 4, 0)


def test_each_column_is_measured() -> None:
    model: Any = two_linears()
    dense = model[0].weight.detach().clone()
    settings = LayerConfig(density=0.5, codebook_size=7, precision="low")
    tersor.compress_(model, Config(overrides={"0": settings, "2": None}))
    layer, left = tersor.report(model).layers
    weight = model[0].dense_weight()
    assert layer.kind == "Linear"
    assert layer.density == float((weight != 0).float().mean())
    assert layer.codebook_size == weight[weight != 0].unique().numel()
    assert layer.relative_error == pytest.approx(float((weight - dense).norm() / dense.norm()))
    assert layer.precision == "low"
    assert 0 < layer.code_bits <= 3
    assert left.reason == "left out by the settings"
    assert (left.weights, left.density, left.bits) == (WIDTH * WIDTH + WIDTH, None, None)


def test_json_has_everything() -> None:
    report = tersor.report(tersor.compress_(Mixed()))
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["ratio"] == report.ratio
    assert [layer["name"] for layer in content["layers"]] == [layer.name for layer in report.layers]
    assert content["layers"][1]["codebook_size"] == report.layers[1].codebook_size


def test_reasons_survive_wrapping_and_compressing_again() -> None:
    model = tersor.compress_(two_linears(), Config(overrides={"2": None}))
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        assert tersor.report(wrapped) == tersor.report(model)
    before = tersor.report(model)
    tersor.compress_(model, Config(overrides={"2": None}))
    assert tersor.report(model) == before
    part = nn.Sequential(model, nn.Linear(WIDTH, WIDTH))
    assert [layer.name for layer in tersor.report(part).layers] == ["0.0", "0.2", "1"]
    assert tersor.report(part).layers[1].reason == "left out by the settings"


def test_a_dense_model_is_not_compressed_yet() -> None:
    report = tersor.report(Net())
    assert {layer.reason for layer in report.layers} == {
        "not compressed yet",
        "BatchNorm2d layers are not supported",
    }
    assert report.dense_bytes == tensor_bytes(Net())
    # The vectors of a fresh norm are constant, and the exponents of the others are coded.
    assert 0.7 * report.dense_bytes < report.stored_bytes < 0.9 * report.dense_bytes


def test_a_loaded_layer_that_is_tied_to_an_unsupported_one_says_so(tmp_path: Path) -> None:
    def build() -> Any:
        model: Any = LanguageModel()
        model.embedding.max_norm = 1e9
        return model

    model = tersor.compress_(build())
    expected = {layer.name: layer.reason for layer in tersor.report(model).layers}
    tersor.save(model, tmp_path / "m")
    loaded = tersor.load_model(tmp_path / "m", build())
    assert {layer.name: layer.reason for layer in tersor.report(loaded).layers} == expected
    why = expected["head"]
    assert str(why).startswith("shares its weight with embedding (max_norm rescales rows")
    dense = {layer.name: layer.reason for layer in tersor.report(build()).layers}
    assert (dense["head"], dense["fc"]) == (why, "not compressed yet")


def test_dense_layers_that_are_tied_to_each_other_are_not_compressed_yet() -> None:
    model: Any = nn.Sequential(two_linears(tied=True), nn.LayerNorm(WIDTH))
    model[1].bias = model[0][0].bias  # another parameter than the weight: no reason
    reasons = [layer.reason for layer in tersor.report(model).layers]
    assert reasons == ["not compressed yet"] * 2 + ["LayerNorm layers are not supported"]


def lazy() -> nn.Sequential:
    return nn.Sequential(nn.LazyLinear(WIDTH), nn.ReLU(), two_linears()[0])


def test_a_layer_that_is_not_initialized_has_a_line_with_the_reason() -> None:
    why = "weight is not initialized: run the model once"
    for model in (lazy(), tersor.compress_(lazy()), nn.LazyLinear(4)):
        report = tersor.report(model)
        first = report.layers[0]
        assert first.reason == why
        assert (first.weights, first.dense_bytes, first.stored_bytes) == (0, 0, 0)
        assert why in str(report)
        assert (report.stored_bytes > 0) == (len(report.layers) > 1)
    assert tersor.estimate(lazy()).left == {"0": why}


def test_a_model_without_layers() -> None:
    report = tersor.report(nn.ReLU())
    assert report == ModelReport((), 0, 0, nn.Identity())
    assert "total: 0 -> 0 bytes" in str(report)


@pytest.mark.parametrize(
    "change", [parametrizations.weight_norm, lambda m: prune.l1_unstructured(m, "weight", 0.5)]
)
def test_a_layer_whose_weight_is_computed_is_one_line(change: Any) -> None:
    model = two_linears()
    change(model[0])
    for made in (model, tersor.compress_(model, Config(overrides={"0": None}))):
        report = tersor.report(made)
        assert [(layer.name, layer.kind) for layer in report.layers] == [
            ("0", "Linear"),
            ("2", "Linear"),
        ]
    assert report.layers[0].reason == "left out by the settings"
    assert made(vectors()).isfinite().all()


def test_trained_codebooks_do_not_count_as_dense_bytes() -> None:
    model: Any = tersor.compress_(two_linears())
    before = tersor.report(model)
    model[0].train_values()
    assert tersor.report(model).dense_bytes == before.dense_bytes


def test_a_page_of_a_model_has_its_errors_and_times() -> None:
    pytest.importorskip("jinja2")
    model = tersor.compress_(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8)))
    profile = tersor.profile(model, torch.randn(1, 64))
    page = tersor.report(model).to_html("a network", profile)
    assert "<title>a network" in page
    assert "error %" in page
    assert "dense ms" in page
    plain = tersor.report(tersor.decompress_(model)).to_html()
    assert "error %" not in plain
