"""Tied layers share one blob, and a trained codebook belongs to it."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import WIDTH, bytes_of, two_linears, vectors
from torch import nn

import tersor
from tersor.io import container


def compressed(*, tied: bool = True) -> Any:
    return tersor.compress_(two_linears(tied=tied))


def trained() -> Any:
    """A model whose shared codebook was trained."""
    model = compressed()
    with torch.no_grad():
        model[2].train_values().mul_(1.5)
    return model


def through_torch_save(model: nn.Module) -> Any:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def test_tied_layers_train_one_parameter() -> None:
    model = compressed()
    values = model[0].train_values()
    assert model[2].values is values
    assert model[2].train_values() is values
    assert [name for name, _ in model.named_parameters() if "values" in name] == ["0.values"]
    before = model(vectors()).detach()
    torch.optim.SGD([values], 0.1).zero_grad()
    model(vectors()).square().sum().backward()
    assert values.grad is not None
    # The gradient is that of both places: the codebook moves both layers.
    twice = compressed(tied=False)
    for i in (0, 2):
        twice[i].set_blob(model[0].weight_blob.clone())
        twice[i].bias = model[i].bias
        twice[i].train_values()
    twice(vectors()).square().sum().backward()
    assert torch.allclose(values.grad, twice[0].values.grad + twice[2].values.grad, rtol=1e-4)
    with torch.no_grad():
        values.mul_(2)
    assert torch.equal(model[0].dense_weight(), model[2].dense_weight())
    assert not torch.equal(model(vectors()), before)


def test_layers_that_are_not_tied_train_their_own() -> None:
    model = compressed(tied=False)
    assert model[0].train_values() is not None
    assert model[2].values is None
    copied = copy.deepcopy(model)
    assert copied[2].train_values() is not None
    assert model[2].values is None


@pytest.mark.parametrize(
    "way",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), through_torch_save],
    ids=["deepcopy", "pickle", "torch.save"],
)
@pytest.mark.parametrize("make", [compressed, trained])
def test_copies_are_tied_among_themselves_alone(make: Any, way: Callable[[Any], Any]) -> None:
    model = make()
    before = bytes_of(model)
    made = way(model)
    values = made[2].train_values()
    assert made[0].values is values
    assert values is not model[0].values
    with torch.no_grad():
        values.mul_(2)
    assert bytes_of(model) == before


def test_conversions_keep_one_parameter() -> None:
    model = trained().double().half().to("cpu")
    assert model[0].values is model[2].values
    assert model[0].values.dtype == torch.float16
    assert model[0].weight_blob is model[2].weight_blob


def test_a_state_holds_one_blob_with_the_current_codebook() -> None:
    model = trained()
    state = model.state_dict()
    assert state["0.weight_blob"] is state["2.weight_blob"]
    # A state that somebody holds is no reason for a later one to be out of date.
    model[0].values.data.mul_(2)
    later = model.state_dict()
    assert not torch.equal(later["0.weight_blob"], state["0.weight_blob"])
    again = model.state_dict()
    again["0.weight_blob"].zero_()
    assert torch.equal(model.state_dict()["2.weight_blob"], _blob_of(model))


def _blob_of(model: Any) -> torch.Tensor:
    """The blob of a copy whose codebook was folded."""
    folded = copy.deepcopy(model[0])
    folded.fold_values()
    blob: torch.Tensor = folded.weight_blob
    return blob


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_loaded_state_keeps_the_tie(assign: bool, training: bool) -> None:
    model, source = compressed(), trained()
    values = model[0].train_values() if training else None
    model.load_state_dict(source.state_dict(), assign=assign)
    assert model[0].weight_blob is model[2].weight_blob
    assert model[0].values is model[2].values is values
    assert torch.equal(model(vectors()), source(vectors()))
    assert model[0].train_values() is model[2].train_values()


def test_an_assigned_state_of_one_place_reaches_the_other() -> None:
    model, source = compressed(), trained()
    state = {"0.weight_blob": source.state_dict()["0.weight_blob"]}
    model.load_state_dict(state, strict=False, assign=True)
    assert model[0].weight_blob is model[2].weight_blob
    assert torch.equal(model[2].dense_weight(), source[2].dense_weight())


def test_folding_keeps_one_blob() -> None:
    model = trained()
    expected = model(vectors()).detach()
    model[0].fold_values()
    assert model[0].values is model[2].values is None
    assert model[0].weight_blob is model[2].weight_blob
    assert torch.equal(model(vectors()), expected)


def test_a_file_holds_one_blob_and_loads_tied(tmp_path: Path) -> None:
    model = trained()
    tersor.save(model, tmp_path / "m")
    with container.open(tmp_path / "m") as file:
        assert sum(view.compressed for view in file.tensors.values()) == 1
    target = compressed()
    values = target[0].train_values()
    for loaded in (
        tersor.load_model(tmp_path / "m", two_linears(tied=True)),
        tersor.load_model(tmp_path / "m", target),
    ):
        assert loaded[0].weight_blob is loaded[2].weight_blob
        assert loaded[0].train_values() is loaded[2].train_values()
        assert torch.equal(loaded[2].dense_weight(), model[2].dense_weight())
    assert target[0].values is values


def test_a_file_without_the_tie_gives_each_layer_its_own_codebook(tmp_path: Path) -> None:
    """Not one parameter for two blobs."""
    apart = compressed(tied=False)
    tersor.save(apart, tmp_path / "m")
    target = compressed()
    values = target[0].train_values()
    tersor.load_model(tmp_path / "m", target)
    assert target[0].values is values
    assert target[2].values is not values
    for i in (0, 2):
        assert torch.equal(target[i].dense_weight(), apart[i].dense_weight())


def test_a_replica_leaves_the_codebook_of_the_original() -> None:
    """As nn.DataParallel makes them: with the buffers of the original, and tensors of its own."""
    model = trained()
    values = model[0].values
    replica = model[0]._replicate_for_data_parallel()
    replica.values = torch.zeros_like(values)
    assert model[0].values is model[2].values is values


def test_a_layer_that_is_tied_takes_the_codebook_of_the_other() -> None:
    model = compressed(tied=False)
    model[2].train_values()
    model[2].weight = model[0].weight
    assert model[2].values is None
    values = model[0].train_values()
    assert model[2].values is values
    other = tersor.compress_(nn.Linear(WIDTH, WIDTH))
    assert isinstance(other, tersor.nn.Compressed)
    other.set_blob(model[0].weight_blob)
    assert other.values is values
