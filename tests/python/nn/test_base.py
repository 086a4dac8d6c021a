"""The modules that run compressed."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from networks import Net, net, same
from torch import nn

import tersor
from tersor import Config, LayerConfig


@pytest.mark.parametrize("shape", [(6,), (0, 6), (2, 3, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_linear_shapes_and_types(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    layer = tersor.nn.CompressedLinear.from_dense(nn.Linear(6, 4), LayerConfig(codebook_size=24))
    x = torch.randn(*shape).to(dtype)
    with torch.no_grad():
        y = layer(x)
        expected = F.linear(x.float(), layer.dense_weight(), layer.bias)
    assert y.dtype == dtype
    assert torch.allclose(y.float(), expected, atol=2e-2 if dtype != torch.float32 else 1e-6)


def test_a_linear_layer_without_bias() -> None:
    dense = nn.Linear(6, 4, bias=False)
    layer = tersor.nn.CompressedLinear.from_dense(dense, LayerConfig(codebook_size=24))
    x = torch.randn(3, 6)
    with torch.no_grad():
        assert torch.allclose(layer(x), F.linear(x, layer.dense_weight()), atol=1e-6)
    assert list(layer.state_dict()) == ["weight_blob"]
    assert layer.bias is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"padding": "same"},
        {"padding": "same", "kernel_size": (4, 2), "dilation": 3},
        {"padding": "valid"},
        {"dilation": 2, "padding": (1, 2)},
        {"groups": 4},
        {"padding": (2, 1), "padding_mode": "reflect"},
        {"padding": "same", "padding_mode": "circular", "kernel_size": 4},
        {"padding": 1, "padding_mode": "replicate", "stride": 2},
    ],
)
def test_conv_matches_torch(options: dict[str, object]) -> None:
    dense = nn.Conv2d(4, 8, **{"kernel_size": 3, **options})
    layer = tersor.nn.CompressedConv2d.from_dense(
        dense, LayerConfig(codebook_size=255, density=0.4)
    )
    back = layer.to_dense()
    x = torch.randn(2, 4, 11, 10)
    with torch.no_grad():
        assert torch.allclose(layer(x), back(x), atol=1e-5)
        assert torch.allclose(layer(x[0]), back(x[0]), atol=1e-5)
    assert repr(back) == repr(dense)


def test_state_round_trips(tmp_path: Path) -> None:
    model = tersor.compress_(net())
    assert same(copy.deepcopy(model), model)
    assert same(pickle.loads(pickle.dumps(model)), model)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = tersor.compress_(Net().eval(), Config(linear=LayerConfig(codebook_size=3)))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert same(other, model)
    layer = tersor.nn.CompressedLinear.from_dense(nn.Linear(6, 4), LayerConfig())
    safetensors.torch.save_file(layer.state_dict(), tmp_path / "s")
    assert set(safetensors.torch.load_file(tmp_path / "s")) == {"weight_blob", "bias"}


@pytest.mark.parametrize("x", [torch.ones(6, dtype=torch.int64), torch.ones(6) * 1j])
def test_inputs_that_are_not_float_are_refused(x: torch.Tensor) -> None:
    layer = tersor.nn.CompressedLinear.from_dense(nn.Linear(6, 4), LayerConfig())
    with torch.no_grad(), pytest.raises(ValueError, match=f"float input, not {x.dtype}"):
        layer(x)


def test_inputs_of_another_shape_are_refused_with_the_one_expected() -> None:
    linear = tersor.nn.CompressedLinear.from_dense(nn.Linear(6, 4), LayerConfig())
    conv = tersor.nn.CompressedConv2d.from_dense(nn.Conv2d(4, 8, 3), LayerConfig())
    with torch.no_grad():
        for x in (torch.tensor(1.0), torch.ones(5), torch.ones(0)):
            with pytest.raises(ValueError, match=r"expected \[\.\.\., 6\]"):
                linear(x)
        for x in (torch.ones(9, 9), torch.ones(1, 3, 9, 9), torch.ones(1, 1, 4, 9, 9)):
            with pytest.raises(ValueError, match=r"expected \[n, 4, h, w\]"):
                conv(x)


def test_views_that_negate_are_read_as_what_they_mean() -> None:
    layer = tersor.nn.CompressedLinear.from_dense(nn.Linear(6, 4), LayerConfig(codebook_size=24))
    x = torch.randn(6, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    with torch.no_grad():
        assert torch.allclose(layer(x), layer.to_dense()(x), atol=1e-6)


@pytest.mark.parametrize("without_table", [False, True])
def test_inputs_of_every_layout_and_type_are_read(
    without_table: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without torch's table of C functions, which older versions lack."""
    if without_table:
        monkeypatch.setattr("tersor._core.spmm_linear", lambda *_: None)
    layer = tersor.nn.CompressedLinear.from_dense(nn.Linear(6, 4), LayerConfig(codebook_size=24))
    dense = layer.to_dense()
    x = torch.randn(3, 2, 6)
    wide = torch.randn(3, 2, 12)
    inputs = (x, x[0, 0], x[:0], x.mT.contiguous().mT, wide[..., ::2], x[:, :1].expand(3, 2, 6))
    with torch.no_grad():
        for each in (*inputs, torch._neg_view(x), x.requires_grad_()):
            for dtype in (torch.float32, torch.bfloat16, torch.float64):
                given = each.to(dtype)
                added = torch.randn(*each.shape[:-1], 4)
                y = layer(given, added)
                assert y.dtype == dtype
                assert y.shape == added.shape
                expected = dense(given.float()) + added
                assert torch.allclose(y.float(), expected, atol=1e-5, rtol=2.0**-8)
        with pytest.raises(ValueError, match="the residual has shape"):
            layer(x, torch.ones(6, 4))


def test_autocast_gives_the_type_of_a_dense_layer() -> None:
    x = torch.randn(2, 6)
    dense = nn.Linear(6, 4)
    layer = tersor.nn.CompressedLinear.from_dense(dense, LayerConfig(codebook_size=24))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == dense(x).dtype == torch.bfloat16
        assert torch.allclose(layer(x).float(), dense(x).float(), atol=3e-2)


def test_the_weight_computes_as_the_dense_one_and_cannot_be_changed() -> None:
    dense = nn.Linear(6, 4)
    layer = tersor.nn.CompressedLinear.from_dense(dense, LayerConfig(codebook_size=24))
    x = torch.randn(3, 6)
    assert layer.weight.shape == (4, 6)
    assert layer.weight.dtype == torch.float32
    assert torch.equal(layer.weight.abs().sum(), dense.weight.abs().sum())
    assert torch.equal(F.linear(x, layer.weight), F.linear(x, dense.weight))
    assert "weight" not in layer.state_dict()
    with pytest.raises(RuntimeError, match="cannot be changed in place"):
        layer.weight.mul_(2)


@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "gelu", "silu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_epilogue_is_that_of_torch(activation: str, dtype: torch.dtype) -> None:
    act = tersor.nn.base.ACTIVATIONS[activation]()
    settings = LayerConfig(codebook_size=24)
    linear = tersor.nn.CompressedLinear.from_dense(
        nn.Linear(6, 20), settings, activation=activation
    )
    conv = tersor.nn.CompressedConv2d.from_dense(
        nn.Conv2d(2, 4, 3), settings, activation=activation
    )
    tolerance = 4e-2 if dtype == torch.bfloat16 else 1e-5
    for layer, shape, out in ((linear, (5, 6), (5, 20)), (conv, (3, 2, 6, 7), (3, 4, 4, 5))):
        x = (torch.randn(shape) * 3).to(dtype)
        residual = torch.randn(out).to(dtype)
        plain = layer.to_dense() if activation == "none" else layer.to_dense()[0]
        with torch.no_grad():
            y = layer(x, residual)
            expected = act(plain(x.float()) + residual.float())
        assert y.dtype == dtype
        assert torch.allclose(y.float(), expected, atol=tolerance, rtol=tolerance)


def test_what_is_not_finite_comes_out_as_from_a_dense_layer() -> None:
    x = torch.randn(6, 6)
    for row, value in enumerate((torch.nan, torch.inf, -torch.inf)):
        x[row, row] = value
    dense = nn.Linear(6, 20)
    for activation in ("none", "relu", "relu6", "gelu", "silu"):
        layer = tersor.nn.CompressedLinear.from_dense(
            dense, LayerConfig(density=0.4), activation=activation
        )
        with torch.no_grad():
            y, z = layer(x), F.linear(x, layer.dense_weight(), layer.bias)
        expected = tersor.nn.base.ACTIVATIONS[activation]()(z)
        finite = z.isfinite()
        assert torch.allclose(y[finite], expected[finite], atol=1e-5)
        assert torch.equal(y.isnan() & z.isnan(), z.isnan())


def test_a_residual_of_another_shape_is_refused() -> None:
    layer = tersor.nn.CompressedLinear.from_dense(nn.Linear(6, 4), LayerConfig())
    with torch.no_grad(), pytest.raises(ValueError, match="residual has shape"):
        layer(torch.ones(3, 6), torch.ones(4))
    with pytest.raises(ValueError, match="activation 'tanh' is none of"):
        tersor.nn.CompressedLinear.from_dense(nn.Linear(6, 4), LayerConfig(), activation="tanh")


def test_states_hold_the_values_of_the_moment(tmp_path: Path) -> None:
    layer = tersor.nn.CompressedLinear.from_dense(nn.Linear(6, 4), LayerConfig(codebook_size=5))
    values = layer.train_values()
    assert layer.train_values() is values
    assert list(dict(layer.named_parameters())) == ["bias", "values"]
    with torch.no_grad():
        values.copy_(torch.tensor([1.0, -2.0, 3.0, 0.5, 0.25]))
    x = torch.randn(3, 6)
    state = layer.state_dict()
    assert list(state) == ["bias", "weight_blob"]
    other = tersor.nn.CompressedLinear.from_dense(nn.Linear(6, 4), LayerConfig(codebook_size=5))
    trained = other.train_values()
    other.load_state_dict(state)
    assert other.values is trained
    assert torch.equal(trained.detach().sort().values, values.detach().sort().values)
    copied = copy.deepcopy(layer)
    layer.fold_values()
    assert layer.values is None
    with torch.no_grad():
        for same_layer in (other, copied):
            assert torch.allclose(same_layer(x), layer(x), atol=1e-6)
    plain = tersor.nn.CompressedLinear.from_dense(nn.Linear(6, 4), LayerConfig(kind="plain_fp32"))
    with pytest.raises(ValueError, match="no codebook to train"):
        plain.train_values()


def test_models_with_trained_values_are_saved_as_they_compute(tmp_path: Path) -> None:
    model = tersor.compress_(net())
    with torch.no_grad():
        model.fc.train_values().mul_(1.5)
        model.conv.train_values().add_(0.1)
    tersor.save(model, tmp_path / "m.tersor")
    assert same(tersor.load(tmp_path / "m.tersor", net()), model)
