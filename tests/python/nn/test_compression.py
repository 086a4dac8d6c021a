"""Inference without asking for it: the direct path, and the way to gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from networks import LAYERS, images, net, rows
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import tersor
from tersor.nn import conv as conv_module
from tersor.nn import linear as linear_module


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The kernels that layers call past torch's dispatcher."""
    called: list[str] = []

    def count(module: Any, name: str) -> None:
        run = getattr(module, name)

        def counted(*given: Any) -> torch.Tensor:
            called.append(name)
            result: torch.Tensor = run(*given)
            return result

        monkeypatch.setattr(module, name, counted)

    count(linear_module, "run_linear")
    count(conv_module, "run_conv2d")
    return called


class Operators(TorchDispatchMode):
    """The operators of tersor that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "tersor":
            self.called.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def _loaded(tmp_path: Any, **options: Any) -> nn.Module:
    tersor.save(tersor.compress_(net()), tmp_path / "m.safetensors")
    return tersor.load(tmp_path / "m.safetensors", net(), **options)


ALL = ["run_conv2d", "run_linear", "run_linear"]


def test_compressed_models_run_directly(direct: list[str]) -> None:
    y = tersor.compress_(net())(images())
    assert direct == ALL
    assert not y.requires_grad


def test_loaded_models_run_directly(direct: list[str], tmp_path: Any) -> None:
    y = _loaded(tmp_path)(images())
    assert direct == ALL
    assert not y.requires_grad


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", list(LAYERS))
def test_so_do_layers_that_are_the_model(
    direct: list[str], kind: str, bias: bool, dtype: torch.dtype
) -> None:
    make, inputs = LAYERS[kind]
    tersor.compress_(make(bias=bias).to(dtype))(inputs().to(dtype))
    assert len(direct) == 1


def test_fused_models_run_directly(direct: list[str]) -> None:
    model = tersor.fuse_(tersor.compress_(nn.Sequential(LAYERS["linear"][0](), nn.ReLU())))
    model(rows())
    assert direct == ["run_linear"]


WAYS: dict[str, Callable[[nn.Module], Any]] = {
    "requires_grad_": lambda model: model.requires_grad_(),
    "train_values": lambda model: model.fc.train_values(),
    "one bias": lambda model: model.fc.bias.requires_grad_(),
}


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("loaded", [False, True])
def test_training_is_asked_for(loaded: bool, way: str, direct: list[str], tmp_path: Any) -> None:
    model = _loaded(tmp_path) if loaded else tersor.compress_(net())
    WAYS[way](model)
    model(images()).square().sum().backward()
    asked = [p for p in model.parameters() if p.requires_grad]
    assert asked
    assert all(p.grad is not None for p in asked)
    assert "run_linear" not in direct
    direct.clear()
    with torch.no_grad():
        model(images())
    assert direct == ALL


@pytest.mark.parametrize("loaded", [False, True])
def test_trainable_models_ask_for_the_gradients_that_the_dense_one_did(
    loaded: bool, tmp_path: Any
) -> None:
    options = {"trainable": True}
    model = _loaded(tmp_path, **options) if loaded else tersor.compress_(net(), **options)
    model(images()).square().sum().backward()
    assert all(p.requires_grad and p.grad is not None for p in model.parameters())
    assert len(list(model.parameters())) == 4


def test_inputs_get_gradients_without_asking_the_model() -> None:
    model = tersor.compress_(net())
    x = images().requires_grad_()
    model(x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("loaded", [False, True])
def test_decompressed_models_can_be_trained_as_before(
    loaded: bool, fuse: bool, tmp_path: Any
) -> None:
    def build() -> nn.Sequential:
        model = nn.Sequential(LAYERS["linear"][0](), nn.ReLU(), LAYERS["linear"][0]())
        model[2].bias.requires_grad_(False)
        return model

    model = tersor.compress_(build())
    if loaded:
        tersor.save(model, tmp_path / "m.safetensors")
        model = tersor.load(tmp_path / "m.safetensors", build())
    if fuse:
        tersor.fuse_(model)
    dense = tersor.decompress_(model)
    layers = [m for m in dense.modules() if isinstance(m, nn.Linear)]
    assert [layer.bias.requires_grad for layer in layers] == [True, False]
    assert all(layer.weight.requires_grad for layer in layers)
    dense(rows()).sum().backward()
    assert all(layer.weight.grad is not None for layer in layers)


@pytest.mark.parametrize(
    "watch", ["mode", "compile", "profile", "trace", "vmap", "subclass", "meta"]
)
def test_whoever_watches_operators_sees_them(watch: str, direct: list[str]) -> None:
    model = tersor.compress_(net())
    expected = model(images())
    direct.clear()
    if watch == "mode":
        with Operators() as operators:
            model(images())
        assert operators.called == ["tersor::conv2d", "tersor::linear", "tersor::linear"]
    elif watch == "compile":
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.allclose(compiled(images()), expected, atol=1e-6)
    elif watch == "profile":
        with torch.profiler.profile() as profile:
            model(images())
        events = {event.key: event.count for event in profile.key_averages()}
        assert (events["tersor::conv2d"], events["tersor::linear"]) == (1, 2)
    elif watch == "trace":
        traced = torch.jit.trace(model, (images(),), check_trace=False)
        assert str(traced.inlined_graph).count("tersor::linear") == 2
    elif watch == "vmap":
        assert torch.allclose(torch.vmap(model)(images()[None])[0], expected, atol=1e-6)
    elif watch == "subclass":
        assert model.fc(nn.Parameter(rows(), False)).shape == rows().shape
    else:
        assert model.fc(rows().to("meta")).shape == rows().shape
    assert direct == []


def test_a_profile_costs_nothing_once_it_is_over(direct: list[str]) -> None:
    model = tersor.compress_(net())
    with torch.profiler.profile():
        model(images())
    model(images())
    assert direct == ALL


def test_frozen_parameters_are_shared_with_copies_of_the_record() -> None:
    model = tersor.compress_(net())
    dense = tersor.decompress_(copy.deepcopy(model))
    assert all(p.requires_grad for p in dense.parameters())
    assert not any(p.requires_grad for p in model.parameters())
