"""What compressed modules take over from dense ones, and give back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import LAYERS, WIDTH, Doubled, Tagged, conv, linear, rows
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

import tersor
from tersor.nn import Compressed, CompressedLinear


class Seen(list[tuple[Any, ...]]):
    """What hooks were called with."""

    def hook(self, kind: str) -> Callable[..., None]:
        return lambda *given: self.append((kind, len(given)))


def _register(layer: nn.Module, seen: Seen) -> dict[str, Any]:
    """A hook of every sort that a module has."""
    hook = seen.hook
    return {
        "pre": layer.register_forward_pre_hook(hook("pre")),
        "pre kwargs": layer.register_forward_pre_hook(hook("pre kwargs"), with_kwargs=True),
        "forward": layer.register_forward_hook(hook("forward")),
        "forward kwargs": layer.register_forward_hook(hook("forward kwargs"), with_kwargs=True),
        "always": layer.register_forward_hook(hook("always"), always_call=True),
        "backward pre": layer.register_full_backward_pre_hook(hook("backward pre")),
        "backward": layer.register_full_backward_hook(hook("backward")),
        "state pre": layer.register_state_dict_pre_hook(hook("state pre")),
        "state": layer.register_state_dict_post_hook(hook("state")),
        "load pre": layer.register_load_state_dict_pre_hook(hook("load pre")),
        "load post": layer.register_load_state_dict_post_hook(hook("load post")),
    }


def _exercise(model: nn.Module, x: torch.Tensor, seen: Seen) -> list[tuple[Any, ...]]:
    """What the hooks see of a call, its gradients, a call that fails, and of loading a state."""
    seen.clear()
    model(x.clone().requires_grad_()).sum().backward()
    with pytest.raises((RuntimeError, ValueError)):
        model(torch.ones(1))
    model.load_state_dict(model.state_dict())
    return list(seen)


@pytest.mark.parametrize("kind", list(LAYERS))
def test_hooks_of_every_sort_move_and_their_handles_go_on_working(kind: str) -> None:
    make, inputs = LAYERS[kind]
    model, x, seen = nn.Sequential(make(), nn.ReLU()), inputs(), Seen()
    handles = _register(model[0], seen)
    expected = _exercise(model, x, seen)
    assert {name for name, _ in expected} == set(handles)
    tersor.compress_(model, trainable=True)
    assert isinstance(model[0], Compressed)
    assert _exercise(model, x, seen) == expected
    tersor.fuse_(model)
    assert model[0].activation == "none"
    assert _exercise(model, x, seen) == expected
    tersor.decompress_(model)
    assert _exercise(model, x, seen) == expected
    tersor.compress_(model, trainable=True)
    for handle in handles.values():
        handle.remove()
    assert _exercise(model, x, seen) == []


def test_hooks_move_with_loaded_models(tmp_path: Any) -> None:
    tersor.save(tersor.compress_(nn.Sequential(linear(), nn.ReLU())), tmp_path / "m.safetensors")
    model, seen = nn.Sequential(linear(), nn.ReLU()), Seen()
    handles = _register(model[0], seen)
    expected = _exercise(model, rows(), seen)
    tersor.load(tmp_path / "m.safetensors", model, trainable=True)
    assert isinstance(model[0], Compressed)
    assert _exercise(model, rows(), seen) == expected
    for handle in handles.values():
        handle.remove()
    assert _exercise(model, rows(), seen) == []


@pytest.mark.parametrize("change", [lambda m: m, tersor.compress_, tersor.decompress_])
def test_hooks_that_run_before_loading_get_the_copy_that_is_loaded(
    change: Callable[[nn.Module], nn.Module],
) -> None:
    model = nn.Sequential(linear())
    seen: list[nn.Module] = []
    model[0].register_load_state_dict_pre_hook(lambda module, *_: seen.append(module))
    tersor.estimate(model)
    change(tersor.compress_(model))
    copied = copy.deepcopy(model)
    for each in (copied, model):
        each.load_state_dict(each.state_dict())
    assert seen == [copied[0], model[0]]


def test_hooks_of_fused_layers_see_what_they_saw() -> None:
    """Registered after the activation was fused, they see its outputs, and go on seeing them."""
    model = tersor.fuse_(tersor.compress_(nn.Sequential(linear(), nn.ReLU())))
    seen: list[torch.Tensor] = []
    handle = model[0].register_forward_hook(lambda _, __, y: seen.append(y.detach()))
    with torch.no_grad():
        model(rows())
        tersor.decompress_(model)(rows())
    assert len(seen) == 2
    assert seen[1].min() == 0
    assert torch.allclose(*seen, atol=1e-5)
    handle.remove()
    assert not model[0]._forward_hooks


@pytest.mark.parametrize(
    "register",
    [
        lambda module: module.register_forward_hook(lambda *_: None),
        lambda module: module.register_forward_pre_hook(lambda *_: None),
        lambda module: module.register_full_backward_hook(lambda *_: None),
        lambda module: module.register_full_backward_pre_hook(lambda *_: None),
        lambda module: setattr(module, "forward", module.forward),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_what_somebody_watches_is_not_fused(place: int, register: Callable[..., Any]) -> None:
    model = tersor.compress_(nn.Sequential(linear(), nn.ReLU()))
    register(model[place])
    tersor.fuse_(model)
    assert type(model[1]) is nn.ReLU
    assert model[0].activation == "none"


class Backwards(nn.Sequential):
    """A sequence that calls its modules in another order."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self[0](self[1](x))


def test_sequences_with_a_forward_of_their_own_are_not_fused() -> None:
    model = tersor.compress_(Backwards(linear(), nn.ReLU()))
    expected = model(-rows())
    tersor.fuse_(model)
    assert torch.equal(model(-rows()), expected)
    replaced = tersor.compress_(nn.Sequential(linear(), nn.ReLU()))
    replaced.forward = replaced[0].forward
    assert type(tersor.fuse_(replaced)[1]) is nn.ReLU


OPTIONS: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": (1, 2), "dilation": 2},
    {"padding": "same", "padding_mode": "circular", "bias": False},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_convolutions_have_the_attributes_of_dense_ones(options: dict[str, Any]) -> None:
    dense = conv(**options)
    model = tersor.compress_(nn.Sequential(conv(**options)))
    ours = {name: getattr(model[0], name) for name in vars(nn.Conv2d(1, 1, 1)) if name[:1] != "_"}
    assert ours == {name: getattr(dense, name) for name in ours}
    assert set(nn.Conv2d.__constants__) <= set(ours)
    assert model[0].weight.shape == dense.weight.shape
    assert repr(tersor.decompress_(model)[0]) == repr(dense)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_have_the_attributes_of_dense_ones(bias: bool) -> None:
    dense = nn.Linear(WIDTH, 2 * WIDTH, bias=bias)
    layer = tersor.compress_(nn.Sequential(dense))[0]
    for name in (*nn.Linear.__constants__, "training"):
        assert getattr(layer, name) == getattr(dense, name)
    assert (layer.bias is None) == (not bias)


@pytest.mark.parametrize("kind", list(LAYERS))
def test_inputs_are_taken_by_the_name_that_torch_gives_them(kind: str) -> None:
    make, inputs = LAYERS[kind]
    layer = tersor.compress_(nn.Sequential(make()))[0]
    assert torch.equal(layer(input=inputs()), layer(inputs()))


def test_attributes_of_users_are_kept() -> None:
    model = nn.Sequential(linear())
    model[0].layer_number = 3
    model[0].note = note = ["of a framework"]
    model[0].register_buffer("scale", torch.ones(3))
    model[0].adapter = nn.Linear(2, 2)
    model[0].extra = nn.Parameter(torch.zeros(5))
    model[0].train(False)
    for change in (tersor.compress_, tersor.decompress_):
        change(model)
        layer = model[0]
        assert (layer.layer_number, layer.note) == (3, note)
        assert layer.note is note
        assert not layer.training
        assert {"0.scale", "0.extra", "0.adapter.weight"} <= model.state_dict().keys()
        assert layer.extra.requires_grad == (change is tersor.decompress_)
    assert not {"shape", "precision", "activation", "relative_error"} & vars(model[0]).keys()


def test_attributes_stay_with_the_layer_where_an_activation_was_fused() -> None:
    model = nn.Sequential(linear(), nn.ReLU())
    model[0].layer_number = 3
    model[0].adapter = nn.Linear(2, 2)
    tersor.decompress_(tersor.fuse_(tersor.compress_(model)))
    assert [type(m) for m in model[0]] == [nn.Linear, nn.ReLU]
    assert model[0][0].layer_number == 3
    assert isinstance(model[0][0].adapter, nn.Linear)
    assert not hasattr(model[0], "in_features")


@pytest.mark.parametrize("name", ["activation", "precision", "shape", "dtype", "info", "values"])
def test_attributes_that_mean_something_else_leave_the_layer_dense(name: str) -> None:
    model = nn.Sequential(linear())
    setattr(model[0], name, "of somebody else")
    tersor.compress_(model)
    assert type(model[0]) is nn.Linear
    assert getattr(model[0], name) == "of somebody else"
    assert f"its attribute '{name}'" in str(tersor.report(model))


def test_subclasses_that_keep_forward_are_compressed_and_come_back() -> None:
    model = nn.Sequential(Tagged(), NonDynamicallyQuantizableLinear(WIDTH, WIDTH))
    tersor.compress_(model)
    assert [type(m) for m in model] == [CompressedLinear, CompressedLinear]
    assert [layer.kind for layer in tersor.report(model).layers if layer.compressed] == [
        "Tagged",
        "NonDynamicallyQuantizableLinear",
    ]
    tersor.decompress_(model)
    assert [type(m) for m in model] == [Tagged, NonDynamicallyQuantizableLinear]
    assert model[0].cache.shape == (2,)
    assert "0.cache" not in model.state_dict()


def test_attention_is_compressed_where_it_is_a_linear_layer() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True).eval()
    x = torch.randn(2, 3, WIDTH)
    tersor.compress_(model)
    assert type(model.self_attn.out_proj) is CompressedLinear
    with torch.no_grad():
        y = model(x)
        assert torch.allclose(tersor.decompress_(model)(x), y, atol=1e-5)
    assert type(model.self_attn.out_proj) is NonDynamicallyQuantizableLinear


def test_layers_with_another_forward_stay_dense_with_a_reason() -> None:
    model = nn.Sequential(Doubled(WIDTH, WIDTH), linear())
    inner = model[1].forward
    model[1].forward = lambda x: 3 * inner(x)
    with torch.no_grad():
        expected = model(rows())
        tersor.compress_(model)
        assert torch.equal(model(rows()), expected)
    reasons = [layer.reason for layer in tersor.report(model).layers]
    assert reasons == [
        "Doubled overrides the forward of Linear",
        "the forward of this Linear was replaced",
    ]
