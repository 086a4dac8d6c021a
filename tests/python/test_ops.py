"""Operators, gradients, compilers, traces and function transforms."""

from __future__ import annotations

import copy

import pytest
import torch
from nets import images, net
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import tersor


def test_gradients_reach_the_input_and_the_bias() -> None:
    model = tersor.compress_(net())
    dense = tersor.decompress_(copy.deepcopy(model))
    grads = []
    for run in (model, dense):
        x = images().requires_grad_()
        run(x).square().sum().backward()
        grads.append((x.grad, run.fc.bias.grad, run.conv.bias.grad))
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_models_compile_whole() -> None:
    model = tersor.compress_(net())
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(images()), model(images()), atol=1e-6)


def test_traces_compute_what_the_model_does() -> None:
    model = tersor.compress_(net())
    with torch.no_grad():
        expected = model(images())
        traced = torch.jit.trace(model, (images() + 1,), check_trace=False)
        graph = make_fx(model)(images() + 1)
        assert torch.allclose(traced(images()), expected, atol=1e-6)
        assert torch.allclose(graph(images()), expected, atol=1e-6)


def _linear_arguments(x: torch.Tensor) -> tuple[object, ...]:
    model = tersor.compress_(net())
    return x, model.fc.weight_blob, model.fc.bias, 6, "high"


def _conv_arguments(x: torch.Tensor) -> tuple[object, ...]:
    conv = tersor.compress_(net()).conv
    return x, conv.weight_blob, conv.bias, 6, [3, 3], [2, 2], [1, 1], [1, 1], 2, "high"


@pytest.mark.parametrize("wanted", [True, False])
def test_operators_pass_every_opcheck(wanted: bool) -> None:
    x = torch.randn(3, 6, requires_grad=wanted)
    torch.library.opcheck(torch.ops.tersor.linear.default, _linear_arguments(x))
    x = images().requires_grad_(wanted)
    torch.library.opcheck(torch.ops.tersor.conv2d.default, _conv_arguments(x))
    _, blob, _, _, precision = _linear_arguments(x)
    gradient = torch.randn(3, 6, requires_grad=wanted)
    torch.library.opcheck(torch.ops.tersor.linear_to_input.default, (gradient, blob, 6, precision))
    _, blob, _, _, *geometry = _conv_arguments(x)
    gradient = torch.randn(3, 6, 5, 4, requires_grad=wanted)
    torch.library.opcheck(
        torch.ops.tersor.conv2d_to_input.default, (gradient, blob, [3, 2, 9, 8], *geometry)
    )


def test_training_under_torch_compile_has_the_same_gradients() -> None:
    model = tersor.compress_(net())
    gradients = []
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        x = images().requires_grad_()
        run(x).square().sum().backward()
        gradients.append((x.grad, model.fc.bias.grad.clone()))
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_second_derivatives_are_those_of_the_dense_model() -> None:
    model = tersor.compress_(net())
    dense = tersor.decompress_(copy.deepcopy(model))
    found = []
    for run in (model, dense):
        x = images().requires_grad_()
        (first,) = torch.autograd.grad(run(x).pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        found.append(second)
    assert torch.allclose(*found, rtol=1e-3, atol=1e-5)
    assert found[0].abs().max() > 0


def test_vmap_batches_inputs() -> None:
    model = tersor.compress_(net())
    x = torch.stack([images(), images() + 1, images() - 1])
    with torch.no_grad():
        expected = torch.stack([model(part) for part in x])
        assert torch.allclose(torch.vmap(model)(x), expected, atol=1e-6)
        assert torch.allclose(torch.vmap(model, in_dims=1)(x.movedim(0, 1)), expected, atol=1e-6)


def test_forward_mode_is_refused_and_not_dropped() -> None:
    layer = tersor.compress_(net()).fc
    with torch.no_grad(), forward_ad.dual_level():
        x = forward_ad.make_dual(torch.randn(3, 6), torch.ones(3, 6))
        with pytest.raises((RuntimeError, NotImplementedError), match="forward"):
            forward_ad.unpack_dual(layer(x))
