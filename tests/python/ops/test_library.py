"""Operators, gradients, compilers, traces and function transforms."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import WIDTH, images, net
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import tersor
from tersor.codec import csr


def test_gradients_reach_the_input_and_the_bias() -> None:
    model = tersor.compress_(net(), trainable=True)
    dense = tersor.decompress_(copy.deepcopy(model))
    grads = []
    for run in (model, dense):
        x = images().requires_grad_()
        run(x).square().sum().backward()
        grads.append((x.grad, run.fc.bias.grad, run.conv.bias.grad))
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_models_compile_whole() -> None:
    model = tersor.compress_(net(), trainable=True)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(images()), model(images()), atol=1e-6)


def test_traces_compute_what_the_model_does() -> None:
    model = tersor.compress_(net(), trainable=True)
    with torch.no_grad():
        expected = model(images())
        traced = torch.jit.trace(model, (images() + 1,), check_trace=False)
        graph = make_fx(model)(images() + 1)
        assert torch.allclose(traced(images()), expected, atol=1e-6)
        assert torch.allclose(graph(images()), expected, atol=1e-6)


GEOMETRY = ([3, 3], [2, 2], [1, 1], [1, 1], 2)


def _layers() -> tuple[tersor.nn.CompressedLinear, tersor.nn.CompressedConv2d]:
    model = tersor.compress_(net(), trainable=True)
    return model.fc, model.conv


def _values_of(layer: tersor.nn.Compressed, wanted: bool) -> torch.Tensor:
    return torch.randn(layer.train_values().shape).requires_grad_(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "gelu", "silu"])
def test_operators_pass_every_opcheck(wanted: bool, activation: str) -> None:
    linear, conv = _layers()
    x = torch.randn(3, WIDTH, requires_grad=wanted)
    rest = (linear.bias, torch.randn(3, WIDTH, requires_grad=wanted), WIDTH, activation, "high")
    torch.library.opcheck(
        torch.ops.tersor.linear.default,
        (x, linear.weight_blob, _values_of(linear, wanted), *rest),
    )
    x = images().requires_grad_(wanted)
    rest = (
        conv.bias,
        torch.randn(3, WIDTH, 5, 4, requires_grad=wanted),
        WIDTH,
        *GEOMETRY,
        activation,
    )
    torch.library.opcheck(
        torch.ops.tersor.conv2d.default,
        (x, conv.weight_blob, _values_of(conv, wanted), *rest, "high"),
    )


@pytest.mark.parametrize("wanted", [True, False])
def test_gradient_operators_pass_every_opcheck(wanted: bool) -> None:
    linear, conv = _layers()
    ops = torch.ops.tersor
    blob, values = linear.weight_blob, _values_of(linear, wanted)
    x, gradient = torch.randn(2, 3, WIDTH, requires_grad=wanted).unbind()
    torch.library.opcheck(ops.linear_to_input.default, (gradient, blob, values, WIDTH, "high"))
    torch.library.opcheck(ops.linear_to_input.default, (gradient, blob, None, WIDTH, "high"))
    arguments = (x, gradient, blob, values.numel(), "high")
    torch.library.opcheck(ops.linear_to_values.default, arguments)
    blob, values = conv.weight_blob, _values_of(conv, wanted)
    gradient = torch.randn(3, WIDTH, 5, 4, requires_grad=wanted)
    arguments = (gradient, blob, values, [3, 2, 9, 8], *GEOMETRY, "high")
    torch.library.opcheck(ops.conv2d_to_input.default, arguments)
    x = images().requires_grad_(wanted)
    arguments = (x, gradient, blob, values.numel(), *GEOMETRY, "high")
    torch.library.opcheck(ops.conv2d_to_values.default, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [True, False])
def test_the_operator_that_decodes_passes_every_opcheck(wanted: bool) -> None:
    ops = torch.ops.tersor
    for layer in _layers():
        blob, values = layer.weight_blob, _values_of(layer, wanted)
        for own in (values, None):
            arguments = (blob, own, list(layer.shape), torch.float32)
            torch.library.opcheck(ops.decode.default, arguments)
        gradient = torch.randn(layer.shape, requires_grad=wanted)
        torch.library.opcheck(ops.decode_to_values.default, (gradient, blob, values.numel()))


def _dense_of(layer: tersor.nn.Compressed, values: torch.Tensor) -> torch.Tensor:
    """The dense weight as a differentiable function of the shared values."""
    codes = torch.from_numpy(csr.decode(layer.layer().csr).astype(np.int64))
    return torch.cat([torch.zeros(1), values])[codes].reshape(layer.shape)


ACTIVATIONS = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "gelu": F.gelu,
    "silu": F.silu,
}


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_every_gradient_is_that_of_dense_autograd(isa: str, activation: str, kind: str) -> None:
    linear, conv = _layers()
    layer = linear if kind == "linear" else conv
    layer.activation = activation
    x = (torch.randn(3, WIDTH) if kind == "linear" else images()).requires_grad_()
    residual = torch.randn((3, WIDTH) if kind == "linear" else (3, WIDTH, 5, 4)).requires_grad_()
    inputs = [x, layer.train_values(), layer.bias, residual]

    def dense() -> torch.Tensor:
        weight = _dense_of(layer, layer.values)
        if kind == "linear":
            y = F.linear(x, weight, layer.bias)
        else:
            y = F.conv2d(x, weight, layer.bias, *(2, 1, 1, 2))
        return ACTIVATIONS[activation](y + residual)

    found = []
    for y in (layer(x, residual), dense()):
        first = torch.autograd.grad(y.pow(3).sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        found.append([y, *first, *second])
    for ours, theirs in zip(*found, strict=True):
        scale = theirs.abs().max().item()
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * (1 + scale))


class ReadsWeights(nn.Module):
    """Asks layers for the dtype of their weight, and has one that torch reads past its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(x.to(self.fc.weight.dtype))
        return self.attention(x, x, x, need_weights=False)[0]


def _reads_weights(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return tersor.compress_(ReadsWeights().eval().to(dtype), trainable=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_read_weights_compile_and_export_whole(dtype: torch.dtype) -> None:
    model, x = _reads_weights(dtype), torch.randn(2, 3, WIDTH)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    rounding = 1e-2 if dtype is torch.bfloat16 else 1e-6
    with torch.no_grad():
        expected = model(x)
        assert torch.allclose(compiled(x), expected, atol=rounding)
        exported = torch.export.export(model, (x,)).module()
        assert torch.allclose(exported(x), expected, atol=rounding)


@pytest.mark.slow
def test_a_weight_whose_dtype_alone_is_read_is_not_decoded_in_a_graph() -> None:
    layer = _reads_weights(torch.float32).fc

    def reads(x: torch.Tensor) -> torch.Tensor:
        return layer(x.to(layer.weight.dtype))

    graphs: list[str] = []

    def keep(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> object:
        graphs.append(graph.code)
        return graph.forward

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=keep)
    with torch.no_grad():
        torch.compile(reads, backend=backend, fullgraph=True)(torch.randn(2, WIDTH))
    assert "tersor.linear" in graphs[0]
    assert "tersor.decode" not in graphs[0]


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_codebooks_of_weights_that_torch_reads_get_gradients(compiled: bool) -> None:
    model = _reads_weights(torch.float32)
    layer = model.attention.out_proj
    values = layer.train_values()
    dense = copy.deepcopy(model)
    plain = tersor.decompress_(dense).attention.out_proj
    x = torch.randn(2, 3, WIDTH)
    torch._dynamo.reset()
    run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    for each in (run, dense):
        each(x).pow(3).sum().backward()
    codes = torch.from_numpy(csr.decode(layer.layer().csr).astype(np.int64)).flatten()
    expected = torch.zeros(len(values) + 1).index_add(0, codes, plain.weight.grad.flatten())[1:]
    assert torch.allclose(values.grad, expected, rtol=1e-4, atol=1e-5)
    assert expected.abs().max() > 0


def test_trained_values_follow_the_optimizer() -> None:
    linear, _ = _layers()
    values = linear.train_values()
    optimizer = torch.optim.SGD([values], lr=0.1)
    x, target = torch.randn(2, 16, WIDTH).unbind()
    losses = []
    for _ in range(20):
        loss = (linear(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with torch.no_grad():
        assert torch.allclose(linear(x), F.linear(x, linear.dense_weight(), linear.bias), atol=1e-5)


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
def test_training_under_torch_compile_has_the_same_gradients(activation: str) -> None:
    model = tersor.compress_(net(), trainable=True)
    model.fc.activation = activation
    values = model.fc.train_values()
    torch._dynamo.reset()
    gradients = []
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        x = images().requires_grad_()
        run(x).square().sum().backward()
        gradients.append((x.grad, model.fc.bias.grad.clone(), values.grad.clone()))
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_second_derivatives_are_those_of_the_dense_model() -> None:
    model = tersor.compress_(net(), trainable=True)
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
    model = tersor.compress_(net(), trainable=True)
    x = torch.stack([images(), images() + 1, images() - 1])
    with torch.no_grad():
        expected = torch.stack([model(part) for part in x])
        assert torch.allclose(torch.vmap(model)(x), expected, atol=1e-6)
        assert torch.allclose(torch.vmap(model, in_dims=1)(x.movedim(0, 1)), expected, atol=1e-6)


def test_forward_mode_is_refused_and_not_dropped() -> None:
    layer = tersor.compress_(net(), trainable=True).fc
    with torch.no_grad(), forward_ad.dual_level():
        x = forward_ad.make_dual(torch.randn(3, WIDTH), torch.ones(3, WIDTH))
        with pytest.raises((RuntimeError, NotImplementedError), match="forward"):
            forward_ad.unpack_dual(layer(x))
