"""Which weights are compressed: patterns, names, wrappers, ties, and why others are not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from networks import WIDTH, LanguageModel, bytes_of, net, two_linears, vectors, words
from torch import nn
from torch.nn.utils import parametrizations, prune

import tersor
from tersor import Config, LayerConfig
from tersor.nn import CompressedLinear
from tersor.pipeline.select import FILTERED, NOT_CONFIGURED, select, tensor_bytes

LOW = LayerConfig(precision="low")


class Nested(nn.Module):
    """Layers inside a container, a norm, and a layer of two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"fc": nn.Linear(WIDTH, WIDTH), "norm": nn.LayerNorm(WIDTH)})
        self.head = nn.Linear(WIDTH, WIDTH)
        self.tail = self.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.encoder["norm"](self.encoder["fc"](x))
        y: torch.Tensor = self.tail(self.head(x))
        return y


@pytest.mark.parametrize(
    ("pattern", "settings", "message"),
    [
        ("heed", None, r"'heed' matches no layer; there are head"),
        ("encoder.fk", LOW, r"'encoder.fk' matches no layer; there are encoder.fc"),
        ("encoder", LOW, r"'encoder' matches no layer; .* write 'encoder\.\*'"),
        ("layers.*.fc", None, r"'layers.\*.fc' matches no layer"),
        ("encoder.norm", LOW, r"no layer that can be compressed: encoder.norm: LayerNorm"),
        ("*norm*", LOW, r"no layer that can be compressed"),
    ],
)
def test_a_pattern_without_effect_is_refused(
    pattern: str, settings: LayerConfig | None, message: str
) -> None:
    model = Nested()
    config = Config(overrides={"head": LOW, pattern: settings})
    for call in (tersor.compress_, tersor.estimate):
        with pytest.raises(ValueError, match=message):
            call(model, config)
    assert type(model.head) is nn.Linear


@pytest.mark.parametrize(
    "pattern", ["head", "head.weight", "tail", "hea?", "module.head", "_orig_mod.head", "*.weight"]
)
def test_patterns_match_every_name_of_a_layer_and_of_its_weight(pattern: str) -> None:
    model: Any = tersor.compress_(Nested(), Config(overrides={pattern: LOW}))
    assert model.head.precision == "low"


def test_a_pattern_may_match_what_stays_dense_and_what_is_compressed_already() -> None:
    config = Config(overrides={"encoder.norm": None, "head": LOW})
    model: Any = tersor.compress_(Nested(), config)
    assert tersor.compress_(model, config) is model
    assert model.head.precision == "low"
    assert type(model.encoder["norm"]) is nn.LayerNorm


@pytest.mark.parametrize("name", ["head", "hed.weight", "head.wieght", "module.fc.weight"])
def test_importance_of_unknown_names_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"importance: no weight is named '{name}'; there are"):
        tersor.compress_(Nested(), importance={name: torch.ones(WIDTH, WIDTH)})


@pytest.mark.parametrize(
    "name", ["head.weight", "tail.weight", "module.head.weight", "_orig_mod.head.weight"]
)
def test_importance_counts_under_every_name(name: str) -> None:
    model: Any = Nested()
    dense = model.head.weight.detach().clone()
    large = dense > 0.06
    tersor.compress_(model, importance={name: large.float()})
    error = (model.head.dense_weight() - dense).abs()
    assert error[large].mean() < 0.5 * error[~large].mean()


def test_importance_of_another_shape_names_the_layer() -> None:
    with pytest.raises(ValueError, match="head"):
        tersor.compress_(Nested(), importance={"head.weight": torch.ones(3, 3)})


def _wrapped(kind: str, model: nn.Module) -> nn.Module:
    if kind == "DataParallel":
        return nn.DataParallel(model)
    compiled: Any = torch.compile(model, backend="eager")
    return nn.DataParallel(compiled) if kind == "both" else compiled


@pytest.mark.parametrize("kind", ["DataParallel", "compile", "both"])
@pytest.mark.parametrize("root", [False, True])
def test_wrapped_models_go_by_the_names_of_the_model(kind: str, root: bool, tmp_path: Any) -> None:
    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(WIDTH, WIDTH) if root else two_linears()

    name = "" if root else "0"
    config = Config(overrides={"weight" if root else "module.0": LOW})
    ones = torch.ones(WIDTH, WIDTH)
    plain = tersor.compress_(fresh(), config, importance={f"{name}.weight".lstrip("."): ones})
    model = _wrapped(kind, fresh())
    model(vectors())  # compiled for the dense layers
    assert tersor.estimate(model, config).layers.keys() == tersor.estimate(fresh()).layers.keys()
    importance = {f"module.{name}.weight".replace("..", "."): ones}
    tersor.compress_(model, config, importance=importance)
    with torch.no_grad():
        assert torch.allclose(model(vectors()), plain(vectors()), atol=1e-6)
    report = tersor.report(model)
    assert [layer.name for layer in report.layers] == ([""] if root else ["0", "2"])
    assert report.layers[0].precision == "low"
    path = tmp_path / "m.safetensors"
    tersor.save(model, path)
    assert tersor.load_file(path).layers.keys() == (
        {"weight"} if root else {"0.weight", "2.weight"}
    )
    for target in (fresh(), _wrapped(kind, fresh())):
        loaded = tersor.load_model(path, target)
        assert torch.equal(loaded(vectors()), model(vectors()))
    assert bytes_of(tersor.decompress_(model)).keys() == bytes_of(_wrapped(kind, fresh())).keys()


def test_a_part_that_is_compiled_runs_what_was_swapped_in() -> None:
    model: Any = two_linears()
    model[0] = torch.compile(model[0], backend="eager")
    model(vectors())
    plain = tersor.compress_(two_linears())
    tersor.compress_(model)
    with torch.no_grad():
        assert torch.allclose(model(vectors()), plain(vectors()), atol=1e-6)


def test_every_layer_that_is_left_has_a_reason() -> None:
    model = nn.Sequential(
        nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.PReLU(WIDTH)
    )
    selection = select(model, Config(overrides={"0": None}), lambda module, name: name != "2")
    assert not selection.records
    assert selection.left == {
        "0": NOT_CONFIGURED,
        "1": "LayerNorm layers are not supported",
        "2": FILTERED,
        "3": "PReLU layers are not supported",
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        parametrizations.weight_norm,
        torch.nn.utils.spectral_norm,
    ],
)
def test_layers_with_computed_weights_are_one_layer_each(change: Any) -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH))
    change(model[0])
    estimate = tersor.estimate(model)
    assert estimate.layers.keys() == {"0", "1"}
    assert not estimate.left
    assert estimate.dense_bytes == tensor_bytes(
        nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=bias) for bias in (False, True)))
    )
    left = tersor.estimate(model, Config(overrides={"0": None}))
    assert left.left == {"0": NOT_CONFIGURED}


def test_an_uninitialized_layer_is_left_with_a_reason() -> None:
    model = nn.Sequential(nn.LazyLinear(WIDTH), nn.Linear(WIDTH, WIDTH))
    tersor.compress_(model)
    assert isinstance(model[1], CompressedLinear)
    model[0](vectors())
    assert tersor.report(model).layers[0].reason == "weight is not initialized: run the model once"


def test_a_meta_model_cannot_be_compressed() -> None:
    with torch.device("meta"):
        model = two_linears()
    with pytest.raises(ValueError, match="0: weight is on the meta device and has no data"):
        tersor.compress_(model)


# ---- Ties


def test_an_embedding_that_is_tied_keeps_the_layer_dense() -> None:
    model: Any = LanguageModel()
    model.embedding.max_norm = 1e9
    before = bytes_of(model)
    assert tersor.compress_(model, data=[words()]) is model
    assert isinstance(model.fc, CompressedLinear)
    assert model.head.weight is model.embedding.weight
    for name in ("embedding.weight", "head.weight"):
        assert bytes_of(model)[name] == before[name]
    reasons = {layer.name: layer.reason for layer in tersor.report(model).layers}
    assert str(reasons["head"]).startswith("shares its weight with embedding (max_norm rescales")


@pytest.mark.parametrize("config", [Config(density=0.3), Config(joint_codebook=LayerConfig())])
def test_no_stage_changes_a_tied_embedding(config: Config) -> None:
    model: Any = LanguageModel()
    model.embedding.max_norm = 1e9
    before = bytes_of(model)["embedding.weight"]
    tersor.compress_(model, config)
    assert bytes_of(model)["embedding.weight"] == before


@pytest.mark.parametrize(
    "config", [Config(density=0.3), Config(joint_codebook=LayerConfig(codebook_size=3))]
)
def test_what_is_pruned_or_quantized_together_leaves_embeddings_out(config: Config) -> None:
    model: Any = LanguageModel()
    tersor.compress_(model, config)
    assert model.embedding.info.nonzeros > 0.9 * model.embedding.info.weights
    assert model.embedding.info.clusters > 100
    assert model.head.weight_blob is model.embedding.weight_blob
    info = model.fc.info
    assert info.clusters == 3 or info.nonzeros == round(0.3 * info.weights)


@pytest.mark.parametrize("how", ["settings", "filter"])
def test_a_tie_to_a_layer_that_is_left_out_keeps_both_dense(how: str) -> None:
    model = two_linears(tied=True)
    config = Config(overrides={"2": None} if how == "settings" else {})
    keep = (lambda module, name: name != "2") if how == "filter" else None
    tersor.compress_(model, config, keep)
    assert type(model[0]) is nn.Linear
    assert model[0].weight is model[2].weight


def test_tied_layers_must_have_the_same_settings() -> None:
    model = two_linears(tied=True)
    with pytest.raises(ValueError, match="0 and 2 share a weight but have different settings"):
        tersor.compress_(model, Config(overrides={"2": LOW}))
    assert type(model[0]) is nn.Linear


def test_parameters_of_the_same_memory_are_tied() -> None:
    model = two_linears()
    model[2].weight = nn.Parameter(model[0].weight.data)
    once = tensor_bytes(two_linears(tied=True))
    assert tensor_bytes(model) == once
    tersor.compress_(model)
    assert model[0].weight_blob is model[2].weight_blob


def test_the_same_estimate_for_copies() -> None:
    model = net()
    assert tersor.estimate(model).compressed_bytes == (
        tersor.estimate(copy.deepcopy(model)).compressed_bytes
    )


@pytest.mark.parametrize("config", [Config(), Config(density=0.5)])
def test_layers_that_are_not_initialized_stay_as_they_are(config: Config) -> None:
    model = nn.Sequential(nn.LazyLinear(64), nn.Linear(64, 64))
    tersor.compress_(model, config)
    assert isinstance(model[0], nn.LazyLinear)
    assert isinstance(model[1], tersor.nn.Compressed)


def test_a_size_cannot_be_met_before_all_layers_are_initialized() -> None:
    model = nn.Sequential(nn.LazyLinear(64), nn.Linear(64, 64))
    with pytest.raises(ValueError, match=r"0\.bias: .* is not initialized; run the model once"):
        tersor.compress_(model, Config(target_ratio=5))
    assert isinstance(model[1], nn.Linear)
