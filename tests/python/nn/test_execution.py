"""Compressed or dense, whichever is faster: what is chosen, when, and that both compute alike."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tersor
from tersor import Config, LayerConfig
from tersor.nn import Compressed, CompressedLinear, execution
from tersor.nn.execution import Choice
from tersor.ops.decoded import is_decoded


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    execution.forget_choices()
    yield
    execution.forget_choices()


def _layer(way: str = "auto", **settings: object) -> CompressedLinear:
    torch.manual_seed(0)
    own = LayerConfig(codebook_size=63, execution=way, **settings)
    layer = CompressedLinear.from_dense(nn.Linear(48, 32), own)
    layer.execution = way
    return layer.requires_grad_(False)


def _time(monkeypatch: pytest.MonkeyPatch, compressed: float, dense: float) -> list[int]:
    """Makes the two ways take so long; counts how often they are timed."""
    calls: list[int] = []

    def shortest(*ways: object, between: tuple[int, ...]) -> list[float]:
        calls.append(len(ways))
        return [compressed, dense]

    monkeypatch.setattr(execution, "_shortest_times", shortest)
    return calls


@pytest.mark.parametrize("way", ["compressed", "dense"])
@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "gelu", "silu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ways_compute_alike(way: str, activation: str, dtype: torch.dtype) -> None:
    layer = _layer(way).to(dtype)
    layer.activation = activation
    x, residual = torch.randn(5, 48).to(dtype), torch.randn(5, 32).to(dtype)
    before = residual.clone()
    found = layer(x, residual)
    bias = layer.bias.float()
    expected = F.linear(x.float(), layer.dense_weight(), bias) + residual.float()
    expected = {
        "none": lambda y: y,
        "relu": F.relu,
        "relu6": F.relu6,
        "gelu": F.gelu,
        "silu": F.silu,
    }[activation](expected)
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    assert torch.allclose(found.float(), expected, atol=tolerance)
    assert torch.equal(residual, before)
    assert is_decoded(layer.weight_blob) == (way == "dense")


@pytest.mark.parametrize("faster", ["compressed", "dense"])
def test_what_was_faster_runs_and_is_remembered(
    faster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _time(monkeypatch, *((1.0, 2.0) if faster == "compressed" else (2.0, 1.0)))
    layer, equal = _layer(), _layer()
    for x in (torch.randn(5, 48), torch.randn(5, 48), torch.randn(2, 48)):
        layer(x)
    assert calls == [2, 2]  # 240 and 96 inputs are of different powers of two
    equal(torch.randn(5, 48))
    assert calls == [2, 2]
    assert {choice.runs for choice in layer.choices.values()} == {faster}
    assert is_decoded(layer.weight_blob) == (faster == "dense")
    assert f"runs {faster} (240 inputs: compressed" in repr(layer)
    assert "dense 1000000.0 µs" in repr(layer) or faster == "compressed"


def test_a_tie_is_not_worth_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    _time(monkeypatch, 1.0, 0.97)
    layer = _layer()
    layer(torch.randn(5, 48))
    assert [choice.runs for choice in layer.choices.values()] == ["compressed"]


def test_few_vectors_on_a_sparse_matrix_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _time(monkeypatch, 2.0, 1.0)
    settings = LayerConfig(codebook_size=15, density=0.1)
    layer = CompressedLinear.from_dense(nn.Linear(512, 256), settings).requires_grad_(False)
    layer.execution = "auto"
    layer(torch.randn(1, 512))
    assert calls == []
    assert "reads less memory" in repr(layer)
    layer(torch.randn(64, 512))
    assert calls == [2]


def test_deterministic_algorithms_run_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _time(monkeypatch, 2.0, 1.0)
    layer = _layer()
    torch.use_deterministic_algorithms(True)
    try:
        layer(torch.randn(5, 48))
    finally:
        torch.use_deterministic_algorithms(False)
    assert calls == []


def test_another_dtype_than_the_layers_runs_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    _time(monkeypatch, 2.0, 1.0)
    layer = _layer()
    assert layer(torch.randn(5, 48, dtype=torch.float64)).dtype == torch.float64
    assert [choice.runs for choice in layer.choices.values()] == ["compressed"]


def test_choices_end_with_what_they_were_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _time(monkeypatch, 2.0, 1.0)
    layer = _layer()
    x = torch.randn(5, 48)
    layer(x)
    assert pickle.loads(pickle.dumps(layer)).choices == {}
    layer.train_values().requires_grad_(False).mul_(2)
    expected = F.linear(x, layer.dense_weight(), layer.bias)
    assert torch.allclose(layer(x), expected, atol=1e-5)
    layer.fold_values()
    assert torch.allclose(layer(x), expected, atol=1e-5)
    other = copy.deepcopy(layer)
    other.load_state_dict(_layer(density=0.5).state_dict())
    assert torch.allclose(other(x), F.linear(x, other.dense_weight(), other.bias), atol=1e-5)
    layer.to(torch.bfloat16)
    assert layer(x).dtype == torch.float32


def test_settings_reach_the_layers_and_the_report() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    config = Config(
        linear=LayerConfig(execution="dense"), overrides={"1": LayerConfig(execution="compressed")}
    )
    tersor.compress_(model, config)
    assert [layer.execution for layer in model] == ["dense", "compressed"]
    model(torch.randn(2, 64))
    runs = [layer.runs for layer in tersor.report(model).layers]
    assert runs == ["dense (as set)", "compressed"]
    assert "dense (as set)" in str(tersor.report(model))


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(ValueError, match="execution 'fast' is none of auto, compressed, dense"):
        LayerConfig(execution="fast")  # type: ignore[arg-type]


def test_the_ways_are_timed_in_turns() -> None:
    calls: list[str] = []
    times = execution._shortest_times(lambda: calls.append("a"), lambda: calls.append("b"))
    assert len(times) == 2
    assert all(0 <= t < float("inf") for t in times)
    assert calls[:4] == ["a", "b", "a", "b"]


def test_a_choice_reads_as_text() -> None:
    assert str(Choice("dense", "as set")) == "dense (as set)"


def test_the_rest_of_the_network_passes_through_the_caches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gc.collect()  # layers of earlier tests
    alone = CompressedLinear.from_dense(nn.Linear(640, 320), LayerConfig(codebook_size=15))
    others = Compressed.bytes_of_all_dense() - 4 * 640 * 320
    network = [copy.deepcopy(alone) for _ in range(5)]
    asked: list[tuple[int, ...]] = []

    def shortest(*_: object, between: tuple[int, ...]) -> list[float]:
        asked.append(between)
        return [1.0, 2.0]

    monkeypatch.setattr(execution, "_shortest_times", shortest)
    network[0].execution = "auto"
    network[0].requires_grad_(False)(torch.randn(8, 640))
    compressed, dense = asked[0]
    assert dense == others + 5 * 4 * 640 * 320
    assert 0 < compressed < dense  # the others would be packed too
    monkeypatch.undo()
    read: list[str] = []
    monkeypatch.setattr(execution, "_reader", lambda nbytes: lambda: read.append(str(nbytes)))
    execution._shortest_times(lambda: read.append("a"), lambda: read.append("b"), between=(1, 2))
    assert read[:6] == ["a", "b", "1", "a", "2", "b"]
