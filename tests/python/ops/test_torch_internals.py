"""What stands in for private names of torch that are missing."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import images, net, rows, same
from torch import nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import tersor
from tersor.ops import torch_internals

# Where a private name stands, and the name.
NAMES: dict[str, tuple[Any, str]] = {
    "autocast": (torch._C, "_is_any_autocast_enabled"),
    "tracing": (torch._C, "_is_tracing"),
    "modes": (torch._C, "_len_torch_dispatch_stack"),
    "transforms": (torch._C._functorch, "peek_interpreter_stack"),
    "profiling": (torch._C._autograd, "_profiler_enabled"),
    "forward mode": (forward_ad, "_current_level"),
    "shared data": (torch, "_has_compatible_shallow_copy_type"),
    "wrapper subclasses": (torch.Tensor, "_make_wrapper_subclass"),
}


class _Without:
    """A module of torch without one of its names."""

    def __init__(self, module: Any, name: str) -> None:
        self._module, self._name = module, name

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            raise AttributeError(name)
        return getattr(self._module, name)


@pytest.fixture(params=list(NAMES))
def missing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The module as it is where torch lacks a name."""
    name: str = request.param
    owner, attribute = NAMES[name]
    with monkeypatch.context() as patch:
        if name in ("forward mode", "shared data", "wrapper subclasses"):
            # Looked up at each call: taken from torch as this module sees it.
            if name == "forward mode":
                patch.setattr(torch_internals, "forward_ad", _Without(owner, attribute))
            else:
                tensor = _Without(torch.Tensor, attribute)
                fake: Any = _Without(torch, attribute)
                if name == "wrapper subclasses":
                    fake.Tensor = tensor
                patch.setattr(torch_internals, "torch", fake)
            yield name
            return
        patch.delattr(owner, attribute)
        found = vars(importlib.reload(torch_internals)).copy()
    importlib.reload(torch_internals)
    with monkeypatch.context() as patch:
        for key, value in found.items():
            if callable(value) and not key.startswith("__"):
                patch.setattr(torch_internals, key, value)
        yield name


def test_names_that_torch_has_are_found() -> None:
    assert torch_internals.is_any_autocast_enabled is torch._C._is_any_autocast_enabled
    assert torch_internals.is_tracing is torch._C._is_tracing
    assert torch_internals.dispatch_modes is torch._C._len_torch_dispatch_stack
    assert torch_internals.function_transform is torch._C._functorch.peek_interpreter_stack
    assert torch_internals.profiling is torch._C._autograd._profiler_enabled
    assert not torch_internals.forward_mode()


def test_models_compute_the_same_without_each_name(missing: str) -> None:
    model = tersor.compress_(net())
    dense = tersor.decompress_(copy.deepcopy(model))
    assert same(model, dense)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model.fc(rows()).dtype == torch.bfloat16
    with torch.no_grad():
        expected = model(images())
        graph = make_fx(model)(images() + 1)
        assert torch.allclose(graph(images()), expected, atol=1e-6)
        batched = torch.vmap(model)(images()[None])
        assert torch.allclose(batched[0], expected, atol=1e-6)
    x = images().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    assert gradient.abs().max() > 0


def test_layers_do_what_they_do_with_their_weight_without_each_name(missing: str) -> None:
    layer = tersor.compress_(net()).fc
    weight = layer.weight
    assert weight.shape == (64, 64)
    assert weight.dtype == torch.float32
    assert weight.device == torch.device("cpu")
    assert torch.equal(F.linear(rows(), weight), F.linear(rows(), layer.dense_weight()))
    with pytest.raises(RuntimeError, match="cannot be changed in place"):
        weight.mul_(2)
    layer.to(torch.bfloat16)
    assert layer.weight.dtype == torch.bfloat16
    assert layer(rows().bfloat16()).dtype == torch.bfloat16


def test_forward_mode_is_refused_without_each_name(missing: str) -> None:
    layer = tersor.compress_(net()).fc
    with torch.no_grad(), forward_ad.dual_level():
        x = forward_ad.make_dual(rows(), torch.ones_like(rows()))
        with pytest.raises((RuntimeError, NotImplementedError), match="forward"):
            layer(x)


def test_without_a_way_to_share_data_tied_layers_still_compute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch_internals, "share_data", lambda *_: False)
    model = tersor.compress_(net()).half().float()
    assert model(images()).shape == (3, 64)


def test_versions_of_tensors() -> None:
    tensor = torch.zeros(3)
    before = torch_internals.version_of(tensor)
    assert torch_internals.version_of(tensor) == before
    tensor.add_(1)
    assert torch_internals.version_of(tensor) > before
    with torch.inference_mode():
        assert torch_internals.version_of(torch.zeros(3)) == 0

    class Unversioned:
        pass

    unknown: Any = Unversioned()
    assert torch_internals.version_of(unknown) != torch_internals.version_of(unknown)


@pytest.mark.parametrize("with_schema", [True, False])
def test_operators_that_change_their_arguments_are_known(with_schema: bool) -> None:
    aten = torch.ops.aten
    for operator, expected in (
        (aten.mul_.Tensor, True),
        (aten.copy_.default, True),
        (aten.add.out, True),
        (aten.mul.Tensor, False),
        (aten.__and__.Tensor, False),
        (aten.linear.default, False),
    ):
        given: Any = operator if with_schema else str(operator)
        assert torch_internals.is_mutable(given) == expected


def test_hooks_that_run_before_loading_get_the_module_that_they_moved_to() -> None:
    seen: list[nn.Module] = []
    old, new = nn.Linear(2, 2), nn.Linear(2, 2)
    old.register_load_state_dict_pre_hook(lambda module, *_: seen.append(module))
    new._load_state_dict_pre_hooks = old._load_state_dict_pre_hooks
    torch_internals.own_load_hooks(new)
    new.load_state_dict(new.state_dict())
    assert seen == [new]
