"""Where a compressed layer is, and in which dtype."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import LAYERS, Patches, linear, rows
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import tersor

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
CONVERSIONS: dict[str, tuple[Callable[[nn.Module], Any], torch.dtype]] = {
    "half": (lambda m: m.half(), torch.float16),
    "bfloat16": (lambda m: m.bfloat16(), torch.bfloat16),
    "double": (lambda m: m.double(), torch.float64),
    "float": (lambda m: m.float(), torch.float32),
    "to dtype": (lambda m: m.to(torch.bfloat16), torch.bfloat16),
    "to device and dtype": (lambda m: m.to("cpu", torch.float16), torch.float16),
    "to tensor": (lambda m: m.to(torch.zeros(1).double()), torch.float64),
    "type": (lambda m: m.type(torch.float16), torch.float16),
    "type by name": (lambda m: m.type("torch.BFloat16Tensor"), torch.bfloat16),
}


def _model() -> nn.Sequential:
    return tersor.compress_(nn.Sequential(linear(), nn.ReLU(), linear()))


def _tied() -> nn.Sequential:
    model = nn.Sequential(linear(), nn.ReLU(), linear())
    model[2].weight = model[0].weight
    return tersor.compress_(model)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", list(LAYERS))
def test_the_weight_has_the_dtype_of_the_dense_layer(
    kind: str, dtype: torch.dtype, bias: bool
) -> None:
    make, inputs = LAYERS[kind]
    dense = nn.Sequential(make(bias=bias)).to(dtype)
    x = inputs().to(dtype)
    expected = dense(x).dtype
    model = tersor.compress_(dense)
    assert isinstance(model[0], tersor.nn.Compressed)
    assert model[0].weight.dtype == dtype
    assert model[0].weight.is_floating_point()
    assert model(x).dtype == expected == dtype
    assert tersor.decompress_(model)[0].weight.dtype == dtype


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("way", list(CONVERSIONS))
@pytest.mark.parametrize("kind", list(LAYERS))
def test_the_dtype_follows_conversions(kind: str, way: str, bias: bool) -> None:
    make, inputs = LAYERS[kind]
    model = tersor.compress_(nn.Sequential(make(bias=bias)))
    blob = model[0].weight_blob.clone()
    convert, dtype = CONVERSIONS[way]
    convert(model)
    layer = model[0]
    assert layer.weight.dtype == layer.dtype == dtype
    assert torch.equal(layer.weight_blob, blob)
    assert model(inputs().to(dtype)).dtype == dtype
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied[0].weight.dtype == dtype
    assert tersor.decompress_(model)[0].weight.dtype == dtype


def test_layers_whose_bias_has_another_dtype_go_by_their_weight() -> None:
    layer = linear()
    layer.weight = nn.Parameter(layer.weight.detach().bfloat16())
    assert tersor.compress_(nn.Sequential(layer))[0].weight.dtype == torch.bfloat16


def test_inputs_that_are_cast_to_the_dtype_of_the_weight_keep_the_model_in_bf16() -> None:
    model = Patches().bfloat16().eval()
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = model(x)
        tersor.compress_(model)
        y = model(x)
    assert model.patch.weight.dtype == y.dtype == expected.dtype == torch.bfloat16


def test_training_stays_possible_after_a_conversion() -> None:
    layer = tersor.compress_(nn.Sequential(linear()), trainable=True)[0].bfloat16()
    values = layer.train_values()
    layer(rows().bfloat16()).float().square().sum().backward()
    assert values.grad is not None
    assert layer.bias.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", list(LAYERS))
def test_models_on_the_meta_device_are_defined(kind: str) -> None:
    make, inputs = LAYERS[kind]
    model = tersor.compress_(nn.Sequential(make()))
    shape = model(inputs()).shape
    blob = model[0].weight_blob
    model.to("meta")
    assert "on meta" in repr(model)
    assert model[0].weight.device.type == "meta"
    assert model[0].weight.shape == make().weight.shape
    assert model(inputs().to("meta")).shape == shape
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied[0].weight_blob.is_meta
        assert repr(copied) == repr(model)
    state = {"0.weight_blob": blob, "0.bias": torch.zeros(64)}
    model.load_state_dict(state, assign=True)
    assert model(inputs()).shape == shape


def _trainable(model: nn.Module) -> nn.Module:
    return model.requires_grad_()


@pytest.mark.parametrize("prepare", [lambda model: model, _trainable])
@pytest.mark.parametrize("kind", list(LAYERS))
def test_the_first_product_of_a_layer_on_meta_is_one_clear_error(
    kind: str, prepare: Callable[[nn.Module], nn.Module]
) -> None:
    """Not a tensor of memory that nobody wrote."""
    make, inputs = LAYERS[kind]
    model = prepare(tersor.compress_(nn.Sequential(make())).to("meta"))
    with pytest.raises(RuntimeError, match="on the meta device and has no data: load"):
        model(inputs())
    with torch.no_grad(), pytest.raises(RuntimeError, match="has no data: load"):
        torch.vmap(model)(inputs()[None])


@pytest.mark.parametrize(
    "use",
    [
        lambda layer: layer.info,
        lambda layer: layer.packed,
        lambda layer: layer.layer(),
        lambda layer: layer.train_values(),
        lambda layer: layer.dense_weight(),
        lambda layer: layer.to_dense(),
        lambda layer: layer.weight + 1,
    ],
)
def test_all_else_that_needs_data_says_so_too(use: Callable[[Any], Any]) -> None:
    with pytest.raises(RuntimeError, match="on the meta device and has no data"):
        use(_model().to("meta")[0])


def test_memory_that_was_not_written_is_no_weight() -> None:
    state = _model().state_dict()
    model = _model().to("meta").to_empty(device="cpu")
    assert "empty" in repr(model)
    with pytest.raises(RuntimeError, match="has no weight yet: load one"):
        model(rows())
    model.load_state_dict(state)
    assert torch.equal(model(rows()), _model()(rows()))
    overwritten = _model()
    with torch.no_grad():
        overwritten[0].weight_blob.zero_()
    assert "malformed" in repr(overwritten)


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("kind", list(LAYERS))
def test_inputs_on_devices_without_kernels_are_one_clear_error(kind: str, trainable: bool) -> None:
    make, inputs = LAYERS[kind]
    model = tersor.compress_(nn.Sequential(make()), trainable=trainable)
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(inputs().shape, device="cuda")
        with pytest.raises(ValueError, match="run on the CPU; the input is on cuda"):
            model[0](x)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", ["bias", "residual", "values"])
@pytest.mark.parametrize("kind", list(LAYERS))
def test_no_tensor_may_be_on_another_device(kind: str, name: str, trained: bool) -> None:
    """By the direct path and by the operators, which would else give memory nobody wrote."""
    make, inputs = LAYERS[kind]
    layer = tersor.compress_(make(), trainable=trained)
    x, residual = inputs(), None
    if name == "residual":
        residual = layer(x).detach().to("meta")
    elif name == "bias":
        layer.bias = nn.Parameter(layer.bias.detach().to("meta"), trained)
    else:
        layer.values = nn.Parameter(layer.train_values().detach().to("meta"), trained)
    with pytest.raises((RuntimeError, ValueError), match=f"meta device and has|{name} is on meta"):
        layer(x, residual)


MOVES: dict[str, Callable[[nn.Module], nn.Module]] = {
    **{way: move for way, (move, _) in CONVERSIONS.items()},
    "copy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "to_empty": lambda model: model.to_empty(device="cpu"),
    "share": lambda model: model.share_memory(),
}


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("move", list(MOVES))
def test_tied_layers_stay_tied(move: str, swap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if swap:
        monkeypatch.setattr(
            torch.__future__, "_swap_module_params_on_conversion", True, raising=True
        )
    model = MOVES[move](_tied())
    assert model[0].weight_blob is model[2].weight_blob


def test_models_in_shared_memory_compute_the_same() -> None:
    model = _model()
    expected = model(rows())
    model.share_memory()
    assert model[0].weight_blob.is_shared()
    assert torch.equal(model(rows()), expected)
