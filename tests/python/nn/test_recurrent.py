"""Recurrent layers and cells against torch's, over a grid of their options."""

from __future__ import annotations

import copy
import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

import tersor
from tersor.nn.recurrent import LAYERS, CompressedLSTM

KINDS: dict[str, Any] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn": nn.RNN,
    "relu": lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k),
}
CELLS: dict[str, Any] = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}


def compressed(layer: nn.Module) -> tuple[nn.Module, Any]:
    """A dense layer with the values of a compressed one, and that."""
    config = tersor.LayerConfig(density=0.4, codebook_size=15, precision="highest")
    base = next(kind for kind in type(layer).__mro__ if kind in LAYERS)
    made = LAYERS[base].from_dense(layer, config)
    return made.to_dense(), made


def tensors_of(result: Any) -> list[torch.Tensor]:
    """All tensors of a result, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    if hasattr(result, "batch_sizes"):
        return [pad_packed_sequence(result)[0]]
    return [t for part in result for t in tensors_of(part)] if result is not None else []


def assert_same(got: Any, expected: Any, tolerance: float = 2e-5) -> None:
    """Every tensor of two results is the same but for rounding."""
    pairs = list(zip(tensors_of(got), tensors_of(expected), strict=True))
    assert pairs
    for ours, theirs in pairs:
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def options() -> list[Any]:
    """Options of the layers: each with each of the kinds."""
    grid = itertools.product(KINDS, (1, 2), (False, True), (True, False), (False, True))
    return [pytest.param(*o, id="-".join(map(str, o))) for o in grid]


@pytest.mark.parametrize(("kind", "layers", "bidirectional", "bias", "batch_first"), options())
def test_a_layer_is_torchs(
    kind: str, layers: int, bidirectional: bool, bias: bool, batch_first: bool
) -> None:
    torch.manual_seed(0)
    dense, made = compressed(
        KINDS[kind](12, 20, layers, bias=bias, bidirectional=bidirectional, batch_first=batch_first)
    )
    x = torch.randn(3, 5, 12)
    batch = 3 if batch_first else 5
    state = torch.randn(layers * (1 + bidirectional), batch, 20)
    hx = (state, state + 1) if kind == "lstm" else state
    packed = pack_sequence([torch.randn(n, 12) for n in (2, 4, 1)], enforce_sorted=False)
    packed_state = torch.randn(layers * (1 + bidirectional), 3, 20)
    packed_hx = (packed_state, packed_state - 1) if kind == "lstm" else packed_state
    with torch.inference_mode():
        assert_same(made(x), dense(x))
        assert_same(made(x, hx), dense(x, hx))
        assert_same(made(x[0]), dense(x[0]))
        assert_same(made(packed), dense(packed))
        assert_same(made(packed, packed_hx), dense(packed, packed_hx))
    with torch.no_grad():  # the operator
        got, _ = torch.compile(made, backend="eager")(x)
    assert_same(got, dense(x)[0])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_projections_are_torchs(bidirectional: bool) -> None:
    torch.manual_seed(1)
    dense, made = compressed(nn.LSTM(12, 20, 2, proj_size=7, bidirectional=bidirectional))
    x = torch.randn(4, 3, 12)
    with torch.inference_mode():
        assert_same(made(x), dense(x))
    assert repr(made).startswith("CompressedLSTM(")
    assert "proj_size=7" in repr(made)


@pytest.mark.parametrize("kind", list(CELLS))
@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_is_torchs(kind: str, bias: bool) -> None:
    torch.manual_seed(2)
    dense, made = compressed(CELLS[kind](12, 20, bias=bias))
    x, state = torch.randn(3, 12), torch.randn(3, 20)
    hx = (state, -state) if kind == "lstm" else state
    single = (state[0], state[1]) if kind == "lstm" else state[0]
    with torch.inference_mode():
        assert_same(made(x), dense(x))
        assert_same(made(x, hx), dense(x, hx))
        assert_same(made(x[0], single), dense(x[0], single))
    assert_same(made(x, hx), dense(x, hx))  # biases ask for gradients: through torch
    with pytest.raises(RuntimeError, match="expected input"):
        made(x[:, :5])


@pytest.mark.parametrize("kind", list(KINDS))
def test_gradients_are_torchs(kind: str) -> None:
    torch.manual_seed(3)
    dense, made = compressed(KINDS[kind](6, 8, 2, bidirectional=True, dropout=0.5))
    x = torch.randn(4, 2, 6, requires_grad=True)
    results = []
    for layer in (made, dense):
        torch.manual_seed(4)
        y, _ = layer(x)
        (gradient,) = torch.autograd.grad(y.square().sum(), x, retain_graph=True)
        bias = next(p for name, p in layer.named_parameters() if name.startswith("bias"))
        results.append((gradient, torch.autograd.grad(y.sum(), bias)[0]))
    assert_same(*results)


def test_a_codebook_is_trained() -> None:
    _, made = compressed(nn.GRU(6, 8))
    values = made.matrices["weight_hh_l0"].train_values()
    y, _ = made(torch.randn(4, 2, 6))
    y.sum().backward()
    assert values.grad is not None
    assert values.grad.abs().sum() > 0
    with torch.no_grad():
        values.mul_(2)
    state = made.state_dict()
    assert "weight_hh_l0_blob" in state
    other = LAYERS[nn.GRU].empty_like(nn.GRU(6, 8))
    other.load_state_dict(state)
    with torch.no_grad():
        x = torch.randn(3, 1, 6)
        assert_same(other(x), made(x))


def model() -> nn.Module:
    """A network with a recurrent layer that is large enough to get smaller."""
    torch.manual_seed(5)

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(32, 48, 2, bidirectional=True, batch_first=True)
            self.cell = nn.GRUCell(96, 64)
            self.head = nn.Linear(64, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y, _ = self.lstm(x)
            result: torch.Tensor = self.head(self.cell(y[:, -1]))
            return result

    return Reader()


def test_compress_takes_recurrent_layers(tmp_path: Path) -> None:
    net = tersor.compress_(
        model(), tersor.Config(linear=tersor.LayerConfig(density=0.3, precision="highest"))
    )
    assert isinstance(net.lstm, CompressedLSTM)
    x = torch.randn(2, 7, 32)
    with torch.no_grad():
        y = net(x)
    tersor.save(net, tmp_path / "net.safetensors")
    loaded = tersor.load(tmp_path / "net.safetensors", model())
    with torch.no_grad():
        assert torch.equal(loaded(x), y)
        again = tersor.load(tmp_path / "net.safetensors", copy.deepcopy(net))
        assert torch.equal(again(x), y)
        with torch.device("meta"):
            empty = model()
        assert torch.equal(tersor.load(tmp_path / "net.safetensors", empty)(x), y)
        assert torch.equal(pickle.loads(pickle.dumps(net.lstm))(x)[0], net.lstm(x)[0])
    names = set(tersor.load_file(tmp_path / "net.safetensors").layers)
    assert {"lstm.weight_ih_l0", "lstm.weight_hh_l1_reverse", "cell.weight_hh"} < names
    reported = {layer.name: layer for layer in tersor.report(net).layers}
    assert list(reported) == ["lstm", "cell", "head"]
    assert reported["lstm"].compressed
    assert reported["lstm"].weights == sum(
        p.numel() for n, p in model().lstm.named_parameters() if "weight" in n
    )
    dense = tersor.decompress_(net)
    assert isinstance(dense.lstm, nn.LSTM)
    with torch.no_grad():
        torch.testing.assert_close(dense(x), y, rtol=1e-4, atol=1e-5)
    assert dict(dense.named_parameters()).keys() == dict(model().named_parameters()).keys()


def test_states_that_do_not_fit_are_named() -> None:
    _, made = compressed(nn.LSTM(6, 8))
    state = dict(made.state_dict())
    del state["weight_hh_l0_blob"], state["weight_ih_l0_blob"]
    state["weight_ih_l0"] = torch.zeros(32, 6)
    with pytest.raises(RuntimeError, match="weight_hh_l0_blob") as caught:
        made.load_state_dict(state)
    assert "weight_ih_l0: a dense weight cannot be loaded" in str(caught.value)
    with pytest.raises(RuntimeError, match="hidden state"):
        made(torch.zeros(3, 2, 6), (torch.zeros(1, 3, 8), torch.zeros(1, 2, 8)))
    with pytest.raises(RuntimeError, match="input_size"):
        made(torch.zeros(3, 2, 5))


def test_the_weights_are_seen_as_torchs_are() -> None:
    dense, made = compressed(nn.LSTM(6, 8))
    assert made.weight_ih_l0.shape == (32, 6)
    assert torch.equal(made.weight_hh_l0 + 0, dense.weight_hh_l0)
    assert made.flatten_parameters() is None
    made.to(torch.bfloat16)
    assert made.weight_ih_l0.dtype == torch.bfloat16
    with torch.inference_mode():
        y, _ = made(torch.randn(3, 2, 6).bfloat16())
    assert y.dtype == torch.bfloat16
