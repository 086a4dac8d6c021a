"""Weights that are compensated in place, and given back where a call only looks or fails."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from networks import WIDTH, LanguageModel, bytes_of, two_linears, vectors, words
from torch import nn

import tersor
from tersor import Config, LayerConfig
from tersor.pipeline.compress import fit

SMALL = Config(target_ratio=9)


def batches() -> list[torch.Tensor]:
    return [vectors() + i for i in range(8)]


@pytest.mark.parametrize("config", [Config(density=0.4), Config(target_ratio=10)])
@pytest.mark.parametrize("tied", [False, True])
def test_looking_changes_nothing(config: Config, tied: bool) -> None:
    model = two_linears(tied=tied)
    before, modules = bytes_of(model), dict(model.named_modules())
    tersor.estimate(model, config, data=batches())
    fit(model, config, data=batches())
    assert bytes_of(model) == before
    assert dict(model.named_modules()) == modules
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("where", ["evaluate", "progress"])
def test_an_error_in_the_middle_changes_nothing(where: str) -> None:
    model = two_linears()
    before, modules = bytes_of(model), dict(model.named_modules())

    def fail(_: Any) -> float:
        raise KeyboardInterrupt

    config = Config(max_drop=0.1) if where == "evaluate" else Config()
    with pytest.raises(KeyboardInterrupt):
        tersor.compress_(
            model,
            config,
            data=batches(),
            evaluate=fail if where == "evaluate" else None,
            progress=fail if where == "progress" else None,
        )
    assert bytes_of(model) == before
    assert dict(model.named_modules()) == modules


def test_an_iterator_is_read_once() -> None:
    def once() -> Iterator[torch.Tensor]:
        yield from batches()

    config = Config(linear=LayerConfig(density=0.3))
    models = [tersor.compress_(two_linears(), config, data=data) for data in (batches(), once())]
    assert bytes_of(models[0]) == bytes_of(models[1])


def test_a_tied_embedding_is_compressed_where_inputs_are_multiplied(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model: Any = LanguageModel()
    expected = model(words()).detach()
    tersor.save(model, tmp_path / "dense")
    tersor.compress_(model, Config(density=0.3), data=[words()])
    tersor.save(model, tmp_path / "small")
    assert model.head.weight_blob is model.embedding.weight_blob
    info = model.head.info
    assert info.nonzeros > 0.9 * info.weights  # not pruned; few are rounded to zero
    assert float((model(words()) - expected).norm() / expected.norm()) < 0.5
    assert (tmp_path / "small").stat().st_size < 0.3 * (tmp_path / "dense").stat().st_size


def test_multiples_of_a_step_may_be_zero_and_err_less_than_without_inputs() -> None:
    config = Config(linear=LayerConfig(method="integer", codebook_size=15))
    dense, x = two_linears(), torch.cat(batches())
    errors = []
    for given in ({}, {"data": batches()}):
        model: Any = tersor.compress_(two_linears(), config, **given)
        assert 0.02 < float((model[0].dense_weight() == 0).float().mean()) < 0.5
        with torch.no_grad():
            errors.append(float((model(x) - dense(x)).norm()))
    assert errors[1] < 0.95 * errors[0]


def test_the_error_is_that_against_the_weight_from_before() -> None:
    model: Any = two_linears()
    dense = model[0].weight.detach().clone()
    tersor.compress_(model, Config(linear=LayerConfig(density=0.3)), data=batches())
    error = (model[0].dense_weight() - dense).norm() / dense.norm()
    assert tersor.report(model).layers[0].relative_error == pytest.approx(float(error), rel=1e-5)


def test_a_layer_that_no_input_reaches_is_quantized_without_compensation() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = two_linears()[0], two_linears()[2]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.used(x)
            return y

    model: Any = tersor.compress_(Branch(), data=batches())
    alone: Any = tersor.compress_(Branch())
    assert torch.equal(model.unused.weight_blob, alone.unused.weight_blob)
    assert not torch.equal(model.used.weight_blob, alone.used.weight_blob)


class Places(nn.Module):
    """Layers side by side that may share a weight or a bias; some are called, each by its input."""

    def __init__(self, *called: str, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = (nn.Linear(WIDTH, WIDTH, bias=bias) for _ in range(2))
        self.called = called

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> list[torch.Tensor]:
        inputs = {"first": first, "second": second}
        return [getattr(self, name)(inputs[name]) for name in self.called]


def places(*called: str, tied: str = "weight", bias: bool = True) -> Any:
    model = Places(*called, bias=bias)
    setattr(model.second, tied, getattr(model.first, tied))
    return model


def both_inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    mixed = torch.randn(2, WIDTH, WIDTH)
    return {
        "first": torch.randn(128, WIDTH) @ mixed[0] + 1,
        "second": torch.randn(128, WIDTH) @ mixed[1] - 2,
    }


PRUNED = Config(linear=LayerConfig(density=0.3))


@pytest.mark.parametrize("called", ["first", "second"])
@pytest.mark.parametrize("config", [PRUNED, Config(target_ratio=12)])
def test_a_tied_weight_is_compensated_where_inputs_reach_it(config: Config, called: str) -> None:
    model = tersor.compress_(places(called), config, data=[both_inputs()])
    # The layer on its own, which is reached.
    alone = places(called)
    other = "first" if called == "second" else "second"
    setattr(alone, other, nn.Identity())
    if config is PRUNED:
        tersor.compress_(alone, config, data=[both_inputs()])
        assert torch.equal(getattr(model, called).weight_blob, getattr(alone, called).weight_blob)
        assert torch.equal(getattr(model, called).bias, getattr(alone, called).bias)
    assert model.first.weight_blob is model.second.weight_blob
    plain = tersor.compress_(places(called), PRUNED)
    assert not torch.equal(model.first.weight_blob, plain.first.weight_blob)
    # The bias of the place that no input reaches is as it was.
    assert torch.equal(getattr(model, other).bias, getattr(places(), other).bias)


def test_a_weight_of_two_places_has_the_statistics_of_both() -> None:
    model = tersor.compress_(places("first", "second", bias=False), PRUNED, data=[both_inputs()])
    one = nn.Sequential(places(bias=False).first)
    tersor.compress_(one, PRUNED, data=[torch.cat(list(both_inputs().values()))])
    # Sums in another order move a few decisions.
    assert part_that_differs(one[0], model.first) < 0.02
    first = nn.Sequential(places(bias=False).first)
    tersor.compress_(first, PRUNED, data=[both_inputs()["first"]])
    assert part_that_differs(first[0], model.first) > 0.1


def part_that_differs(one: Any, other: Any) -> float:
    return float(((one.weight - other.weight).abs() > 1e-3).float().mean())


def test_each_place_of_a_weight_absorbs_the_mean_error_in_its_own_bias() -> None:
    dense = places("first", "second")
    expected = [y.mean(0) for y in dense(**both_inputs())]
    model = tersor.compress_(dense, PRUNED, data=[both_inputs()])
    for y, mean in zip(model(**both_inputs()), expected, strict=True):
        assert torch.allclose(y.mean(0), mean, atol=1e-3)


def test_a_weight_in_convolutions_of_other_groups_is_compensated() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 64, 3), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 3, groups=8))
    model[2].weight = model[0].weight
    data = [torch.randn(16, 8, 9, 9)]
    expected = model(data[0]).detach()
    errors = []
    for own in (None, data):
        made = tersor.compress_(
            copy.deepcopy(model), Config(conv=LayerConfig(density=0.3)), data=own
        )
        errors.append(float((made(data[0]) - expected).norm()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("tied", [False, True])
def test_a_bias_that_layers_share_is_corrected_for_none(tied: bool) -> None:
    model = places("first", "second", tied="bias")
    if tied:
        model.second.weight = model.first.weight
    bias = model.first.bias.detach().clone()
    tersor.compress_(model, PRUNED, data=[both_inputs()])
    assert model.first.bias is model.second.bias
    assert torch.equal(model.first.bias, bias)


def test_a_bias_that_a_dense_layer_shares_is_as_it_was() -> None:
    model: Any = two_linears()
    model[1] = nn.LayerNorm(WIDTH)
    model[1].bias = model[0].bias
    before = model[0].bias.detach().clone()
    tersor.compress_(model, PRUNED, data=batches())
    assert torch.equal(model[1].bias, before)


def test_without_its_bias_a_layer_compensates_for_the_mean_too() -> None:
    """Second moments are centred only where a bias absorbs the mean error."""
    shared = places("first", "second", tied="bias")
    none = copy.deepcopy(shared)
    none.first.bias = none.second.bias = None
    for made in (shared, none):
        tersor.compress_(made, PRUNED, data=[both_inputs()])
    assert torch.equal(shared.first.weight_blob, none.first.weight_blob)


class SameMemory(nn.Module):
    """Two layers and a buffer, over parts of one memory."""

    def __init__(self, second: slice, *, transposed: bool = False, private: bool = False) -> None:
        super().__init__()
        memory = torch.randn(2 * 64, 64, generator=torch.Generator().manual_seed(0)) / 8
        parts = [memory[:64], memory[second].T if transposed else memory[second], memory[:9]]
        if private:
            parts = [part.clone() for part in parts]
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.first.weight, self.second.weight = nn.Parameter(parts[0]), nn.Parameter(parts[1])
        for layer in (self.first, self.second):
            nn.init.zeros_(layer.bias)
        self.register_buffer("some", parts[2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


@pytest.mark.slow
@pytest.mark.parametrize(("second", "transposed"), [(slice(32, 96), False), (slice(64), True)])
@pytest.mark.parametrize(
    "config", [Config(linear=LayerConfig(density=0.5, codebook_size=7)), SMALL]
)
def test_what_lies_in_the_same_memory_is_not_changed_with_a_weight(
    second: slice, transposed: bool, config: Config
) -> None:
    data = [torch.randn(256, 64, generator=torch.Generator().manual_seed(1))]
    shared: Any = SameMemory(second, transposed=transposed)
    private: Any = SameMemory(second, transposed=transposed, private=True)
    before = bytes_of(shared)
    tersor.estimate(shared, config, data=data)
    assert bytes_of(shared) == before
    assert shared.some.data_ptr() == shared.first.weight.data_ptr()
    for model in (shared, private):
        tersor.compress_(model, config, data=data)
    assert bytes_of(shared) == bytes_of(private)


def test_layers_that_share_a_bias_share_it_again_after_an_estimate() -> None:
    model = two_linears()
    model[2].bias = model[0].bias
    memory, before = model[0].bias.data_ptr(), bytes_of(model)
    tersor.estimate(model, data=batches())
    assert model[0].bias is model[2].bias
    assert model[0].bias.data_ptr() == memory
    assert bytes_of(model) == before
