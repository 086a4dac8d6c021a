"""Layers whose weight torch computes before each forward."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import LAYERS, WIDTH, linear, rows
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as hook_spectral_norm
from torch.nn.utils import weight_norm as hook_weight_norm

import tersor
from tersor import Config, LayerConfig
from tersor.nn import Compressed
from tersor.nn.recomputed import plain_copy

# Close to the dense weight: what is wrong by more is another weight.
FINE = LayerConfig(kind="plain_fp16", density=1.0)
CONFIG = Config(linear=FINE, conv=FINE)


class Half(prune.BasePruningMethod):
    """A pruning method of a user."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: torch.Tensor, default_mask: torch.Tensor) -> torch.Tensor:
        mask = default_mask.clone()
        mask.view(-1)[::2] = 0
        return mask


class Scaled(nn.Module):
    """A parametrization of a user; noisy in training mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1.5 * x + (torch.rand_like(x) if self.training else 0)


def _stacked(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", 0.5)
    prune.random_unstructured(layer, "weight", 0.2)
    prune.ln_structured(layer, "weight", 0.1, n=2, dim=0)


def _both(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", 0.5)
    prune.l1_unstructured(layer, "bias", 0.5)


def _pruned_direction(layer: nn.Module) -> None:
    hook_weight_norm(layer)
    prune.l1_unstructured(layer, "weight_v", 0.5)


def _pruned_original(layer: nn.Module) -> None:
    parametrizations.weight_norm(layer)
    prune.l1_unstructured(layer.parametrizations.weight, "original1", 0.5)


def _norm_and_pruned_bias(layer: nn.Module) -> None:
    parametrizations.spectral_norm(layer)
    prune.l1_unstructured(layer, "bias", 0.5)


WAYS: dict[str, Callable[[nn.Module], Any]] = {
    "l1": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "structured": lambda layer: prune.ln_structured(layer, "weight", 0.5, n=2, dim=0),
    "identity": lambda layer: prune.identity(layer, "weight"),
    "stacked": _stacked,
    "bias": lambda layer: prune.l1_unstructured(layer, "bias", 0.5),
    "weight and bias": _both,
    "own method": lambda layer: Half.apply(layer, "weight"),
    "weight norm": hook_weight_norm,
    "weight norm of columns": lambda layer: hook_weight_norm(layer, dim=1),
    "weight norm of all": lambda layer: hook_weight_norm(layer, dim=None),
    "weight norm, pruned": _pruned_direction,
    "spectral norm": hook_spectral_norm,
    "parametrized weight norm": parametrizations.weight_norm,
    "parametrized weight norm, pruned": _pruned_original,
    "parametrized spectral norm": parametrizations.spectral_norm,
    "parametrized spectral norm, pruned bias": _norm_and_pruned_bias,
    "orthogonal": parametrizations.orthogonal,
    "parametrized bias": lambda layer: parametrize.register_parametrization(
        layer, "bias", Scaled()
    ),
    "own parametrization": lambda layer: parametrize.register_parametrization(
        layer, "weight", Scaled()
    ),
}


def _model(way: str, kind: str) -> tuple[nn.Sequential, torch.Tensor]:
    make, inputs = LAYERS[kind]
    model = nn.Sequential(make())
    WAYS[way](model[0])
    return model, inputs()


def _step(model: nn.Module, x: torch.Tensor) -> None:
    """An optimizer step, after which the computed weight is an old one."""
    model.train()
    model(x).square().mean().backward()
    torch.optim.SGD(model.parameters(), 0.3).step()


def _expected(model: nn.Module, way: str, kind: str, x: torch.Tensor) -> torch.Tensor:
    """What a fresh model of the same state computes."""
    fresh, _ = _model(way, kind)
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        fresh.eval()(x)  # a pruned part of a weight is there after a first forward
        return fresh(x)


def _snapshot(model: nn.Module) -> list[Any]:
    """All that a model is made of, by identity and by value."""
    found: list[Any] = []
    for name, module in model.named_modules():
        tables = {k: dict(v) for k, v in vars(module).items() if isinstance(v, dict)}
        found.append((name, id(module), type(module), module.training))
        found.append({k: [(n, id(v)) for n, v in table.items()] for k, table in tables.items()})
    return [*found, {k: v.clone() for k, v in model.state_dict().items()}]


def _equal(before: list[Any], after: list[Any]) -> bool:
    state, now = before[-1], after[-1]
    exactly = {"rtol": 0, "atol": 0, "equal_nan": True}
    return before[:-1] == after[:-1] and all(
        torch.allclose(state[k], now[k], **exactly) for k in state
    )


@pytest.mark.parametrize("stepped", [False, True])
@pytest.mark.parametrize("kind", list(LAYERS))
@pytest.mark.parametrize("way", list(WAYS))
def test_the_weight_of_the_next_forward_is_compressed(way: str, kind: str, stepped: bool) -> None:
    model, x = _model(way, kind)
    if stepped:
        _step(model, x)
    expected = _expected(model, way, kind, x)
    tersor.compress_(model.eval(), CONFIG)
    assert isinstance(model[0], Compressed)
    assert torch.allclose(model(x), expected, atol=2e-3 * expected.abs().max().item())
    assert not model[0]._forward_pre_hooks
    assert not model[0]._load_state_dict_pre_hooks
    assert not model[0]._state_dict_hooks
    assert set(model.state_dict()) == {"0.weight_blob", "0.bias"}
    dense = tersor.decompress_(model)
    assert type(dense[0]) is type(LAYERS[kind][0]())
    assert list(dense.state_dict()) == ["0.weight", "0.bias"]
    dense.load_state_dict(dense.state_dict())
    assert torch.allclose(dense(x), expected, atol=2e-3 * expected.abs().max().item())


@pytest.mark.parametrize("way", list(WAYS))
def test_states_that_were_loaded_without_a_forward_are_what_counts(way: str) -> None:
    trained, x = _model(way, "linear")
    _step(trained, x)
    expected = _expected(trained, way, "linear", x)
    fresh, _ = _model(way, "linear")
    fresh.load_state_dict(trained.state_dict())
    tersor.compress_(fresh.eval(), CONFIG)
    assert torch.allclose(fresh(x), expected, atol=2e-3 * expected.abs().max().item())


@pytest.mark.parametrize("way", ["l1", "weight and bias", "weight norm", "spectral norm"])
def test_calibrated_models_are_those_of_plain_layers(way: str) -> None:
    def models() -> nn.Sequential:
        model = nn.Sequential(linear(), nn.ReLU(), linear()).eval()
        WAYS[way](model[0])
        WAYS[way](model[2])
        return model

    x = rows()
    model, plain = models(), models()
    for i in (0, 2):
        plain[i] = plain_copy(plain[i])
    config = Config(linear=LayerConfig(density=0.3, codebook_size=7))
    for each in (model, plain):
        tersor.compress_(each, config, data=[x, x + 1])
    assert model[0].info.clusters <= 7
    assert model[0].info.nonzeros <= 0.31 * WIDTH * WIDTH
    for i in (0, 2):
        assert torch.equal(model[i].weight_blob, plain[i].weight_blob)
    assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("way", list(WAYS))
def test_estimates_leave_the_model_as_it_is(way: str, training: bool) -> None:
    model, x = _model(way, "linear")
    model[0].register_forward_hook(lambda *_: None)
    model[0].register_forward_pre_hook(lambda *_: None)
    model.train(training)
    before = _snapshot(model)
    tersor.estimate(model, Config(linear=LayerConfig(density=0.5)), data=[x])
    assert _equal(before, _snapshot(model))
    assert model(x).shape == x.shape


@pytest.mark.parametrize("way", list(WAYS))
def test_what_fails_leaves_the_model_as_it_was(way: str) -> None:
    model, x = _model(way, "linear")
    model.append(nn.Linear(WIDTH, WIDTH))
    with torch.no_grad():
        model[1].weight[0, 0] = torch.nan
    before = _snapshot(model)
    with pytest.raises(ValueError, match="NaN"):
        tersor.compress_(model, Config(linear=LayerConfig(density=0.5)))
    assert _equal(before, _snapshot(model))
    with torch.no_grad():
        model[1].weight[0, 0] = 0.0
    assert torch.isfinite(model(x)).all()


@pytest.mark.parametrize("way", ["l1", "weight norm", "orthogonal"])
def test_layers_that_stay_dense_go_on_computing_their_weight(way: str) -> None:
    layer = nn.Linear(2, 2)  # would not get smaller
    WAYS[way](layer)
    model = nn.Sequential(linear(), nn.Linear(WIDTH, 2), layer)
    tersor.compress_(model)
    assert model[2] is layer
    assert "would not get smaller" in str(tersor.report(model).layers[2].reason)
    assert parametrize.is_parametrized(layer) or layer._forward_pre_hooks


def test_hooks_of_users_move_and_their_handles_work() -> None:
    model = nn.Sequential(linear())
    seen: list[str] = []
    before = model[0].register_forward_pre_hook(lambda *_: seen.append("before"))
    prune.l1_unstructured(model[0], "weight", 0.5)
    after = model[0].register_forward_pre_hook(
        lambda *_: seen.append("after"), with_kwargs=True, prepend=True
    )
    loading = model[0].register_load_state_dict_pre_hook(lambda *_: seen.append("loading"))
    tersor.compress_(model)
    model(rows())
    model.load_state_dict(model.state_dict())
    assert seen == ["after", "before", "loading"]
    for handle in (before, after, loading):
        handle.remove()
    model(rows())
    model.load_state_dict(model.state_dict())
    assert len(seen) == 3
    assert not model[0]._forward_pre_hooks_with_kwargs


def test_what_belongs_to_somebody_else_stays() -> None:
    model = nn.Sequential(linear())
    model[0].weight_u = nn.Parameter(torch.ones(2))  # not part of a weight norm
    model[0].statistics = {"calls": 0}
    prune.l1_unstructured(model[0], "weight", 0.5)
    statistics = model[0].statistics
    tersor.compress_(model)
    assert model[0].statistics is statistics
    assert torch.equal(model[0].weight_u, torch.ones(2))
    assert "0.weight_u" in model.state_dict()


def test_parameters_that_were_frozen_stay_so() -> None:
    model = nn.Sequential(linear()).requires_grad_(False)
    WAYS["weight and bias"](model[0])
    model.requires_grad_(False)
    tersor.compress_(model, trainable=True)
    assert not model[0].bias.requires_grad


def _as_attribute(layer: nn.Module) -> None:
    weight = layer._parameters.pop("weight")
    layer.weight = weight.detach()


def _as_buffer(layer: nn.Module) -> None:
    weight = layer._parameters.pop("weight")
    layer.register_buffer("weight", weight.detach())


def _by_a_hook(layer: nn.Module) -> None:
    layer.raw = layer._parameters.pop("weight")
    layer.weight = 2 * layer.raw.detach()
    layer.register_forward_pre_hook(lambda module, _: setattr(module, "weight", 2 * module.raw))


class Borrowed(nn.Linear):
    """A layer whose weight is a property."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.in_features = self.out_features = WIDTH
        self.inner = linear()
        self.bias = nn.Parameter(torch.zeros(WIDTH))

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        return self.inner.weight


@pytest.mark.parametrize("unknown", [_as_attribute, _as_buffer, _by_a_hook, "property"])
def test_weights_that_are_computed_in_an_unknown_way_stay_dense(unknown: Any) -> None:
    model = nn.Sequential(linear(), linear())
    if unknown == "property":
        model[0] = Borrowed()
    else:
        unknown(model[0])
    with torch.no_grad():
        expected = copy.deepcopy(model)[0](rows())
    tersor.compress_(model, CONFIG)
    reason = tersor.report(model).layers[0].reason
    assert reason == "weight is computed in a way that is not known"
    assert not isinstance(model[0], Compressed)
    with torch.no_grad():
        assert torch.allclose(model[0](rows()), expected, atol=2e-3)
    assert isinstance(model[1], Compressed)


def test_biases_that_are_computed_in_an_unknown_way_leave_the_layer_dense() -> None:
    model = nn.Sequential(linear())
    bias = model[0]._parameters.pop("bias")
    model[0].bias = bias.detach() + 1
    tersor.compress_(model)
    reason = tersor.report(model).layers[0].reason
    assert reason == "bias is computed in a way that is not known"


@pytest.mark.parametrize("kind", list(LAYERS))
@pytest.mark.parametrize("way", list(WAYS))
def test_files_are_loaded_into_models_that_compute_their_weights(
    way: str, kind: str, tmp_path: Any
) -> None:
    make, x = LAYERS[kind][0], LAYERS[kind][1]()
    saved = tersor.compress_(nn.Sequential(make()))
    tersor.save(saved, tmp_path / "m.safetensors")
    model, _ = _model(way, kind)
    handle = model[0].register_forward_pre_hook(lambda *_: None)
    tersor.load(tmp_path / "m.safetensors", model)
    assert torch.equal(model(x), saved(x))
    assert list(model[0]._forward_pre_hooks.values()) == [handle.hooks_dict_ref()[handle.id]]
    handle.remove()
    assert not model[0]._forward_pre_hooks
