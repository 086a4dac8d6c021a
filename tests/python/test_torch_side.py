"""The torch side: pruning, sharing, modules, operators, models in and out of files."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import prune as torch_prune

import tersor
from tersor import Config, LayerConfig
from tersor.prune import (
    CubicSchedule,
    Masks,
    density_masks,
    masks_from_torch_prune,
    threshold_mask,
)
from tersor.quantize import compress_weight, decompress_layer
from tersor.share import SharedWeights


class Net(nn.Module):
    """A convolution, and a Linear that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, stride=2, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 6)
        self.again = self.fc

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.again(F.relu(self.fc(x)))


def _net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def _x() -> torch.Tensor:
    return torch.randn(3, 2, 9, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def _same(a: nn.Module, b: nn.Module) -> bool:
    return torch.allclose(a(_x()), b(_x()), atol=1e-5)


def test_threshold_and_density_masks() -> None:
    weight = torch.tensor([[3.0, -0.1], [0.2, -4.0]])
    assert threshold_mask(weight, 1.0).tolist() == [[True, False], [False, True]]
    masks = density_masks({"a": weight.abs(), "b": torch.tensor([9.0, 0.0])}, 0.5)
    assert masks["a"].tolist() == [[True, False], [False, True]]
    assert masks["b"].tolist() == [True, False]
    with pytest.raises(ValueError, match="bad: .*NaN"):
        threshold_mask(torch.tensor([float("nan")]), 1.0, "bad")


def test_cubic_schedule_falls_from_initial_to_final() -> None:
    schedule = CubicSchedule(0.1, 100, begin=10)
    densities = [schedule.density(step) for step in range(150)]
    assert densities[0] == densities[10] == 1.0
    assert densities[100] == densities[149] == 0.1
    assert densities == sorted(densities, reverse=True)


def test_masks_hold_through_training_and_can_be_detached() -> None:
    layer = nn.Linear(5, 4)
    masks = Masks({"weight": layer.weight})
    masks.set(density_masks({"weight": layer.weight.abs()}, 0.3))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    handles = masks.attach(optimizer)

    def step() -> None:
        optimizer.zero_grad()
        layer(torch.randn(8, 5)).square().sum().backward()
        optimizer.step()

    for _ in range(3):
        step()
    assert torch.equal(layer.weight != 0, masks.masks["weight"])
    for handle in handles:
        handle.remove()
    step()
    assert int((layer.weight != 0).sum()) > 6
    with pytest.raises(ValueError, match="'other'"):
        masks.set({"other": torch.ones(1)})
    with pytest.raises(ValueError, match="weight: the mask has shape"):
        masks.set({"weight": torch.ones(1)})


def test_torch_prune_masks_are_imported() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    torch_prune.l1_unstructured(model[0], "weight", 0.5)
    masks = masks_from_torch_prune(model)
    assert list(masks) == ["0.weight"]
    assert int(masks["0.weight"].sum()) == 8


def test_shared_gradients_are_those_of_the_look_up() -> None:
    layer = nn.Linear(9, 7)
    with torch.no_grad():
        layer.weight[layer.weight.abs() < 0.1] = 0
    zeros = layer.weight == 0
    shared = SharedWeights({"w": layer.weight}, 4)
    x = torch.randn(5, 9)
    layer(x).square().sum().backward()
    shared.gather_gradients()
    codebook = shared.codebooks["w"].detach().clone().requires_grad_()
    F.linear(x, codebook[shared.codes["w"]], layer.bias).square().sum().backward()
    assert codebook.grad is not None
    found = shared.codebooks["w"].grad
    assert found is not None
    assert torch.allclose(found[1:], codebook.grad[1:], rtol=1e-4)
    torch.optim.SGD(shared.codebooks.values(), lr=0.01).step()
    shared.write()
    assert torch.equal(layer.weight == 0, zeros)
    assert len(layer.weight.unique()) <= 5


def test_default_config_keeps_zeros_and_shares_losslessly_what_is_shared() -> None:
    weight = torch.randn(20, 30) * (torch.rand(20, 30) < 0.3)
    back = decompress_layer(compress_weight(weight, LayerConfig()))
    assert np.array_equal(back == 0, (weight == 0).numpy())
    assert len(np.unique(back)) <= 16
    again = decompress_layer(compress_weight(torch.from_numpy(back).double(), LayerConfig()))
    assert np.array_equal(again, back)


@pytest.mark.parametrize("kind", ["plain_fp32", "plain_fp16", "shared_fp16"])
def test_other_kinds(kind: str) -> None:
    weight = torch.randn(6, 50)[:, ::2].half().float()
    layer = compress_weight(weight, LayerConfig(kind=kind, density=0.5, values=200))
    back = torch.from_numpy(decompress_layer(layer))
    assert int((back != 0).sum()) == 75
    assert torch.equal(back[back != 0], weight[back != 0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_name_the_layer_and_change_nothing(bad: float) -> None:
    model = _net()
    with torch.no_grad():
        model.fc.weight[0, 0] = bad
    with pytest.raises(ValueError, match="fc: .*NaN"):
        tersor.compress_(model)
    assert type(model.conv) is nn.Conv2d


def test_compress_swaps_in_place_and_keeps_sharing() -> None:
    model = _net()
    dense = copy.deepcopy(model)
    config = Config(linear=LayerConfig(values=255))
    assert tersor.compress_(model, config) is model
    assert model.fc is model.again
    assert isinstance(model.fc, tersor.nn.CompressedLinear)
    assert isinstance(model.conv, tersor.nn.CompressedConv2d)
    assert _same(model, dense)  # fewer weights than values: nothing is lost
    assert type(tersor.decompress_(model).fc) is nn.Linear
    assert _same(model, dense)


def test_a_root_that_is_a_layer_and_patterns_and_filters() -> None:
    assert isinstance(tersor.compress_(nn.Linear(3, 2)), tersor.nn.CompressedLinear)
    model = tersor.compress_(_net(), Config(overrides={"f*": None}))
    assert type(model.fc) is nn.Linear
    model = tersor.compress_(_net(), filter_fn=lambda module, name: name != "conv")
    assert type(model.conv) is nn.Conv2d


def test_estimate_is_the_real_size() -> None:
    model = _net()
    estimate = tersor.estimate(model)
    assert type(model.conv) is nn.Conv2d
    tersor.compress_(model)
    assert estimate.layers["conv"] == model.conv.info
    tensors = [*model.parameters(), *model.buffers()]
    assert estimate.compressed_bytes == sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("shape", [(6,), (0, 6), (2, 3, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_linear_shapes_and_types(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    layer = tersor.nn.CompressedLinear.from_dense(nn.Linear(6, 4), LayerConfig(values=24))
    x = torch.randn(*shape).to(dtype)
    with torch.no_grad():
        y = layer(x)
        expected = F.linear(x.float(), layer.dense_weight(), layer.bias)
    assert y.dtype == dtype
    assert torch.allclose(y.float(), expected, atol=2e-2 if dtype != torch.float32 else 1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2}, {"padding": "same"}, {"dilation": 2, "padding": 1}, {"groups": 4}],
)
def test_conv_matches_torch(options: dict[str, object]) -> None:
    dense = nn.Conv2d(4, 8, 3, **options)  # type: ignore[arg-type]
    layer = tersor.nn.CompressedConv2d.from_dense(dense, LayerConfig(values=255, density=0.4))
    x = torch.randn(2, 4, 11, 10)
    with torch.no_grad():
        assert torch.allclose(layer(x), layer.to_dense()(x), atol=1e-5)
        assert torch.allclose(layer(x[0]), layer.to_dense()(x[0]), atol=1e-5)
    with pytest.raises(ValueError, match="my.conv: padding_mode"):
        tersor.nn.CompressedConv2d.from_dense(
            nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), LayerConfig(), "my.conv"
        )


def test_gradients_reach_the_input_and_the_bias() -> None:
    model = tersor.compress_(_net())
    dense = tersor.decompress_(copy.deepcopy(model))
    grads = []
    for net in (model, dense):
        x = _x().requires_grad_()
        net(x).square().sum().backward()
        grads.append((x.grad, net.fc.bias.grad, net.conv.bias.grad))
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_operators_pass_opcheck_and_compile() -> None:
    model = tersor.compress_(_net())
    arguments = (torch.randn(3, 6), model.fc.weight_blob, model.fc.bias, 6, "high")
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.tersor.linear.default, arguments, test_utils=tests)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(_x()), model(_x()), atol=1e-6)


def test_traces_compute_what_the_model_does() -> None:
    model = tersor.compress_(_net())
    with torch.no_grad():
        expected = model(_x())
        traced = torch.jit.trace(model, (_x() + 1,), check_trace=False)
        graph = make_fx(model)(_x() + 1)
        assert torch.allclose(traced(_x()), expected, atol=1e-6)
        assert torch.allclose(graph(_x()), expected, atol=1e-6)


def test_state_round_trips(tmp_path: Path) -> None:
    model = tersor.compress_(_net())
    assert _same(copy.deepcopy(model), model)
    assert _same(pickle.loads(pickle.dumps(model)), model)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = tersor.compress_(Net().eval(), Config(linear=LayerConfig(values=3)))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert _same(other, model)
    layer = tersor.nn.CompressedLinear.from_dense(nn.Linear(6, 4), LayerConfig())
    safetensors.torch.save_file(layer.state_dict(), tmp_path / "s")
    assert set(safetensors.torch.load_file(tmp_path / "s")) == {"weight_blob", "bias"}


def test_save_and_load(tmp_path: Path) -> None:
    model = tersor.compress_(_net())
    tersor.save(model, tmp_path / "m.safetensors")
    for target in (Net().eval(), tersor.compress_(Net().eval())):
        loaded = tersor.load(tmp_path / "m.safetensors", target)
        assert loaded is target
        assert loaded.fc is loaded.again
        assert _same(loaded, model)
    content = tersor.load(tmp_path / "m.safetensors")
    assert set(content.layers) == {"conv.weight", "again.weight"}
    assert content.tensors["norm.num_batches_tracked"].dtype == torch.int64
    with pytest.raises(ValueError, match="does not fit the model"):
        tersor.load(tmp_path / "m.safetensors", nn.Sequential(nn.Linear(2, 2)))


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tersor.save(tersor.compress_(_net()), path)
    altered = bytearray(path.read_bytes())
    altered[-20] ^= 1
    path.write_bytes(altered)
    with pytest.raises(tersor.FormatError, match="checksum"):
        tersor.load(path, _net())
