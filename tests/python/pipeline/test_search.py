"""A target is measured on the model that is produced, and the final one is measured again."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import LanguageModel, bytes_of, two_linears, vectors, words
from torch import nn

import tersor
from tersor import Config, LayerConfig
from tersor.nn import Compressed, CompressedLinear
from tersor.pipeline.compress import fit
from tersor.pipeline.select import tensor_bytes

Metric = Callable[[nn.Module], float]


def closeness(build: Callable[[], nn.Module], x: torch.Tensor) -> Metric:
    """How near a model is to the one that is built, 0 at most."""
    expected = build()(x).detach()
    scale = expected.abs().mean()
    return lambda model: -float((model(x) - expected).abs().mean() / scale)


def with_large_bias() -> nn.Module:
    model = two_linears()
    with torch.no_grad():
        model[2].bias.copy_(torch.linspace(-50, 50, 64))
    return model


def with_a_tie() -> nn.Module:
    torch.manual_seed(0)
    return LanguageModel().eval()


CASES: dict[str, tuple[Callable[[], nn.Module], torch.Tensor, Config]] = {
    "biases": (
        with_large_bias,
        vectors(),
        Config(max_drop=0.05, biases=LayerConfig(codebook_size=100)),
    ),
    "precision": (
        two_linears,
        vectors(),
        Config(max_drop=0.05, linear=LayerConfig(precision="low")),
    ),
    "tied layers": (lambda: two_linears(tied=True), vectors(), Config(max_drop=0.05)),
    "a tied embedding": (with_a_tie, words(), Config(max_drop=0.05)),
}


@pytest.mark.parametrize("case", CASES)
def test_max_drop_holds_for_the_model_that_is_produced(case: str) -> None:
    build, x, config = CASES[case]
    metric = closeness(build, x)
    model = tersor.compress_(build(), config, evaluate=metric)
    assert any(isinstance(module, Compressed) for module in model.modules())
    assert metric(model) >= -0.05


@pytest.mark.parametrize("case", CASES)
def test_every_attempt_is_a_model_that_is_really_compressed(case: str, tmp_path: Path) -> None:
    build, x, config = CASES[case]
    metric = closeness(build, x)
    seen: list[tuple[float, int]] = []

    def evaluate(model: nn.Module) -> float:
        assert not torch.is_grad_enabled()
        seen.append((metric(model), sum(isinstance(m, Compressed) for m in model.modules())))
        for module in model.modules():
            if isinstance(module, CompressedLinear):
                assert module.precision == config.linear.precision
        return seen[-1][0]

    model = tersor.compress_(build(), config, evaluate=evaluate)
    layers = sum(isinstance(m, Compressed) for m in model.modules())
    assert seen[0][1] == 0  # the dense model, once
    assert {count for _, count in seen[1:]} == {layers}
    assert seen[-1] == (metric(model), layers)


def test_biases_that_cost_too_much_are_not_hidden() -> None:
    model = with_large_bias()
    before, modules = bytes_of(model), dict(model.named_modules())
    config = Config(max_drop=0.02, biases=LayerConfig(codebook_size=2))
    with pytest.raises(ValueError, match="cannot reach an accuracy of -0.02"):
        tersor.compress_(model, config, evaluate=closeness(with_large_bias, vectors()))
    assert bytes_of(model) == before
    assert dict(model.named_modules()) == modules


@pytest.mark.slow
@pytest.mark.parametrize("data", [None, [vectors()]])
@pytest.mark.parametrize("tied", [False, True])
def test_a_promise_that_the_final_model_breaks_raises_and_restores(
    data: list[torch.Tensor] | None, tied: bool
) -> None:
    """The metric answers once otherwise, as one does that draws its samples."""
    model = two_linears(tied=tied)
    before, modules = bytes_of(model), dict(model.named_modules())
    metric = closeness(lambda: two_linears(tied=tied), vectors())
    config, calls = Config(max_drop=0.05), itertools.count()
    steps: list[str] = []
    tersor.compress_(
        two_linears(tied=tied), config, data=data, evaluate=metric, progress=steps.append
    )
    tries = sum("lambda" in step for step in steps)
    assert tries > 1
    with pytest.raises(
        ValueError, match=r"model evaluates to -3, and max_drop=0.05 allows no less than -0.05"
    ):
        tersor.compress_(
            model,
            config,
            data=data,
            evaluate=lambda m: metric(m) if next(calls) <= tries else -3.0,
        )
    assert bytes_of(model) == before
    assert dict(model.named_modules()) == modules
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("value", [float("nan"), None])
def test_a_metric_that_is_no_number_changes_nothing(value: Any) -> None:
    model = two_linears()
    before = bytes_of(model)
    with pytest.raises((ValueError, TypeError)):
        tersor.compress_(model, Config(max_drop=0.1), evaluate=lambda _: value)
    assert bytes_of(model) == before
    assert type(model[0]) is nn.Linear


def test_max_drop_and_evaluate_belong_together() -> None:
    for config, evaluate in ((Config(max_drop=0.1), None), (Config(), lambda _: 0.0)):
        with pytest.raises(ValueError, match="max_drop and evaluate belong together"):
            tersor.compress_(two_linears(), config, evaluate=evaluate)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("biases", [None, LayerConfig(codebook_size=7)])
def test_sizes_are_those_of_the_file(
    tied: bool, biases: LayerConfig | None, tmp_path: Path
) -> None:
    dense = tensor_bytes(two_linears(tied=tied))
    config = Config(target_ratio=9.0, biases=biases)
    model = tersor.compress_(two_linears(tied=tied), config)
    tersor.save(model, tmp_path / "m")
    size = (tmp_path / "m").stat().st_size
    assert 0.9 * dense / 9 < size <= dense / 9
    fitted = fit(two_linears(tied=tied), config)
    again = tersor.compress_(two_linears(tied=tied), fitted)
    assert [bytes_of(again)[f"{i}.weight_blob"] for i in (0, 2)] == [
        bytes_of(model)[f"{i}.weight_blob"] for i in (0, 2)
    ]


def test_a_model_without_layers_has_no_target() -> None:
    with pytest.raises(ValueError, match="no layer of this model can be compressed"):
        tersor.compress_(nn.Sequential(nn.LayerNorm(3)), Config(target_ratio=2))
