"""What is kept for the backward pass, and what may happen before it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import LAYERS, WIDTH
from torch import nn

import tersor
from tersor.ops import library

ACTIVATIONS = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
IN_PLACE: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "silu": lambda: nn.SiLU(inplace=True),
    "hardswish": lambda: nn.Hardswish(inplace=True),
    "leaky": lambda: nn.LeakyReLU(0.1, inplace=True),
    "elu": lambda: nn.ELU(inplace=True),
    "dropout": lambda: nn.Dropout(0.0, inplace=True),
}


def _compressed(kind: str, *after: nn.Module) -> tuple[nn.Sequential, torch.Tensor]:
    make, inputs = LAYERS[kind]
    return tersor.compress_(nn.Sequential(make(), *after), trainable=True), inputs()


def _gradients(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    bias = next(p for name, p in model.named_parameters() if name.endswith("bias"))
    return list(torch.autograd.grad(model(x * 1.0).square().sum(), (x, bias)))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("after", list(IN_PLACE))
@pytest.mark.parametrize("kind", list(LAYERS))
def test_outputs_may_be_changed_in_place(kind: str, after: str, compiled: bool) -> None:
    model, x = _compressed(kind, IN_PLACE[after]().train())
    dense = tersor.decompress_(copy.deepcopy(model))
    if compiled:
        torch._dynamo.reset()
        model = torch.compile(model, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(_gradients(model, x), _gradients(dense, x), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("activation", ["relu", "relu6", "silu"])
@pytest.mark.parametrize("kind", list(LAYERS))
def test_in_place_activations_can_be_fused(kind: str, activation: str) -> None:
    model, x = _compressed(kind, IN_PLACE[activation]())
    dense = tersor.decompress_(copy.deepcopy(model))
    tersor.fuse_(model)
    assert model[0].activation == activation
    for ours, theirs in zip(_gradients(model, x), _gradients(dense, x), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
@pytest.mark.parametrize("kind", list(LAYERS))
def test_inputs_may_be_changed_in_place(kind: str, activation: str, compiled: bool) -> None:
    model, x = _compressed(kind)
    model[0].activation = activation
    dense = tersor.decompress_(copy.deepcopy(model))
    if compiled:
        torch._dynamo.reset()
        model = torch.compile(model, backend="aot_eager", fullgraph=True)
    found = []
    for run in (model, dense):
        leaf = x.clone().requires_grad_()
        given = leaf * 1.0
        y = run(given)
        if run is not dense:  # whose convolutions keep their inputs in any case
            given.add_(1)
        found.append(torch.autograd.grad(y.square().sum(), leaf)[0])
    assert torch.allclose(*found, atol=1e-4, rtol=1e-4)


def test_inputs_that_a_formula_needs_may_not_be_changed_in_place() -> None:
    model, x = _compressed("linear")
    model[0].train_values()
    given = x.requires_grad_() * 1.0
    y = model(given)
    given.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def _saved(run: Callable[[], Any]) -> tuple[Any, set[int]]:
    """The result, and where the tensors lie that are kept for the backward pass."""
    addresses: set[int] = set()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        addresses.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    return result, addresses


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("kind", list(LAYERS))
def test_only_what_a_formula_needs_is_kept(
    kind: str, activation: str, trained: bool, compiled: bool
) -> None:
    model, x = _compressed(kind)
    layer = model[0]
    layer.activation = activation
    if trained:
        layer.train_values()
    x.requires_grad_()
    run = model
    if compiled:
        torch._dynamo.reset()
        run = torch.compile(model, backend="aot_eager", fullgraph=True)
    y, kept = _saved(lambda: run(x))
    needed = {
        x.data_ptr(): trained or activation in ("gelu", "silu"),
        y.data_ptr(): activation in ("relu", "relu6"),
        layer.weight_blob.data_ptr(): True,
    }
    for address, is_needed in needed.items():
        # A compiler may keep something else in the place of what is needed.
        if not compiled or not is_needed:
            assert (address in kept) == is_needed


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
def test_residuals_are_kept_only_where_the_input_of_the_activation_is_computed_again(
    activation: str,
) -> None:
    model, x = _compressed("linear")
    model[0].activation = activation
    residual = torch.randn_like(x).requires_grad_()
    _, kept = _saved(lambda: model[0](x, residual))
    assert (residual.data_ptr() in kept) == (activation == "gelu")
    assert (model[0].bias.data_ptr() in kept) == (activation == "gelu")


def test_the_codebook_alone_can_be_trained() -> None:
    """Neither the input nor the bias asks for gradients: x is kept, and no gradient of it made."""
    model, x = _compressed("conv")
    values = model[0].train_values()
    model[0].bias.requires_grad_(False)
    model(x).square().sum().backward()
    assert values.grad is not None
    assert values.grad.abs().max() > 0
    assert x.grad is None


def test_second_derivatives_keep_no_gradient_of_outputs_without_a_trained_codebook() -> None:
    model, x = _compressed("linear")
    x.requires_grad_()
    y = model(x)
    flowing = torch.ones_like(y, requires_grad=True)
    (first,), kept = _saved(lambda: torch.autograd.grad(y, x, flowing, create_graph=True))
    assert flowing.data_ptr() not in kept
    first.sum().backward()
    expected = model[0].dense_weight().sum(1).expand_as(y)
    assert torch.allclose(flowing.grad, expected, atol=1e-5)


@pytest.mark.parametrize("images_at_a_time", [1, 2, 3])
def test_patches_are_unfolded_some_images_at_a_time(
    images_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = _compressed("conv")
    layer, values = model[0], model[0].train_values()
    (whole,) = torch.autograd.grad(model(x).pow(3).sum(), values)
    patches = x[:1].numel() // (9 * 8) * 9 * 7 * 6
    sizes = []
    unfold = F.unfold

    def watched(part: torch.Tensor, *geometry: Any) -> torch.Tensor:
        sizes.append(len(part))
        return unfold(part, *geometry)

    monkeypatch.setattr(F, "unfold", watched)
    monkeypatch.setattr(library, "PATCH_ELEMENTS", images_at_a_time * patches)
    (parts,) = torch.autograd.grad(layer(x).pow(3).sum(), values)
    assert max(sizes) == images_at_a_time
    assert sum(sizes) == len(x) == 3
    assert torch.allclose(parts, whole, rtol=1e-4)


def test_an_empty_batch_has_gradients_of_zero() -> None:
    for kind in LAYERS:
        model, x = _compressed(kind)
        values = model[0].train_values()
        model(x[:0]).sum().backward()
        assert torch.equal(values.grad, torch.zeros_like(values))


def test_gradients_of_single_images_are_those_of_a_batch_of_one() -> None:
    model, batch = _compressed("conv")
    values = model[0].train_values()
    x = batch[0]
    found = [torch.autograd.grad(model(each).square().sum(), values)[0] for each in (x, x[None])]
    assert torch.allclose(*found)
    assert model(x).shape == (WIDTH, 7, 6)
