"""States of compressed models: what is loaded, what is refused, and in which words."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from networks import WIDTH, Tagged, linear, rows
from torch import nn

import tersor
from tersor import Config, LayerConfig


def _dense() -> nn.Sequential:
    return nn.Sequential(linear(), nn.ReLU(), linear())


def _model(**settings: Any) -> nn.Sequential:
    return tersor.compress_(_dense(), Config(linear=LayerConfig(**settings)))


def _errors(model: nn.Module, state: dict[str, Any], strict: bool) -> str:
    with pytest.raises(RuntimeError, match=r"Error\(s\) in loading state_dict") as raised:
        model.load_state_dict(state, strict=strict)
    return str(raised.value)


@pytest.mark.parametrize("strict", [True, False])
def test_all_that_does_not_fit_is_listed_at_once(strict: bool) -> None:
    model = _model()
    before = model(rows())
    state = model.state_dict()
    state["0.weight_blob"] = torch.zeros(3, dtype=torch.uint8)
    state["0.bias"] = torch.full((WIDTH,), 0.5)
    state["2.weight_blob"] = torch.zeros(3)
    state["2.bias"] = torch.zeros(3)
    message = _errors(model, state, strict)
    assert "0.weight_blob: layer blob: the data is truncated" in message
    assert "2.weight_blob: not a blob, which is a uint8 tensor, but torch.float32" in message
    assert "size mismatch for 2.bias" in message
    assert torch.equal(model[0].bias.detach(), state["0.bias"])  # what fits is loaded, as in torch
    assert model(rows()).shape == before.shape


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (torch.empty(5, dtype=torch.uint8, device="meta"), "on the meta device and has no data"),
        (torch.empty(0, dtype=torch.uint8), "has no weight yet"),
        ("text", "not a blob, which is a uint8 tensor"),
    ],
)
def test_what_is_no_blob_is_refused_in_words(blob: Any, message: str) -> None:
    model = _model()
    assert message in _errors(model, {**model.state_dict(), "0.weight_blob": blob}, True)


def test_blobs_of_another_shape_are_refused() -> None:
    other = tersor.compress_(nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.ReLU(), linear()))
    message = _errors(_model(), other.state_dict(), True)
    assert (
        f"0.weight_blob: has shape [{WIDTH}, {2 * WIDTH}], expected [{WIDTH}, {WIDTH}]" in message
    )


@pytest.mark.parametrize("strict", [True, False])
def test_dense_states_are_refused_with_the_cure(strict: bool) -> None:
    """Also without strict: weights that are passed over would leave the model as it was."""
    message = _errors(_model(), _dense().state_dict(), strict)
    for name in ("0.weight", "2.weight"):
        assert f"{name}: a dense weight cannot be loaded into a CompressedLinear" in message
    assert "tersor.decompress_" in message
    assert "Missing key" not in message
    assert "Unexpected key" not in message


def test_missing_and_unexpected_names_are_told_as_torch_does() -> None:
    model = _model()
    state = model.state_dict()
    del state["0.weight_blob"], state["2.bias"]
    state["0.more"] = torch.zeros(1)
    found = model.load_state_dict(state, strict=False)
    assert found.missing_keys == ["0.weight_blob", "2.bias"]
    assert found.unexpected_keys == ["0.more"]
    message = _errors(model, state, True)
    assert 'Missing key(s) in state_dict: "0.weight_blob", "2.bias"' in message


@pytest.mark.parametrize("settings", [{"codebook_size": 3}, {"kind": "plain_fp16"}])
def test_states_can_be_assigned(settings: dict[str, Any]) -> None:
    model, other = _model(), _model(**settings)
    state = other.state_dict()
    assert str(model.load_state_dict(state, assign=True)) == "<All keys matched successfully>"
    assert model[0].weight_blob is state["0.weight_blob"]
    assert torch.equal(model(rows()), other(rows()))


def test_tied_layers_stay_tied_when_a_state_is_loaded() -> None:
    def tied(**settings: Any) -> nn.Module:
        model = _dense()
        model[2].weight = model[0].weight
        return tersor.compress_(model, Config(linear=LayerConfig(**settings)))

    model, other = tied(), tied(codebook_size=3)
    model.load_state_dict(other.state_dict())
    assert model[0].weight_blob is model[2].weight_blob
    assert torch.equal(model(rows()), other(rows()))


def test_trained_codebooks_are_kept_where_a_state_has_no_blob() -> None:
    model = _model()
    values = model[0].train_values()
    with torch.no_grad():
        values.mul_(2)
    expected = model(rows())
    model.load_state_dict({"0.bias": model[0].bias.detach().clone()}, strict=False)
    assert model[0].values is values
    assert torch.equal(model(rows()), expected)


def test_blobs_without_a_codebook_are_refused_where_one_is_trained() -> None:
    model = _model()
    values = model[0].train_values()
    message = _errors(model, _model(kind="plain_fp16").state_dict(), True)
    assert "0.weight_blob: holds weights of kind plain_fp16" in message
    assert model[0].values is values
    model[0].fold_values()
    model.load_state_dict(_model(kind="plain_fp16").state_dict())
    assert model[0].info.kind == "plain_fp16"


def test_the_extra_state_of_a_subclass_is_saved_and_loaded() -> None:
    dense = nn.Sequential(Tagged())
    names = set(dense.state_dict())
    dense[0].tag = "second"
    model = tersor.compress_(dense)
    state = model.state_dict()
    assert set(state) == names - {"0.weight"} | {"0.weight_blob"}
    other = tersor.compress_(nn.Sequential(Tagged()))
    assert str(other.load_state_dict(state)) == "<All keys matched successfully>"
    assert other[0].tag == "second"
    del state["0._extra_state"]
    assert other.load_state_dict(state, strict=False).missing_keys == ["0._extra_state"]
    assert tersor.decompress_(other)[0].tag == "second"


def test_the_extra_state_of_a_subclass_is_in_the_file(tmp_path: Any) -> None:
    model = tersor.compress_(nn.Sequential(Tagged()))
    model[0].tag = "fifth"
    tersor.save(model, tmp_path / "m.safetensors")
    loaded = tersor.load(tmp_path / "m.safetensors", nn.Sequential(Tagged()))
    assert loaded[0].tag == "fifth"


def test_weights_cannot_be_assigned_but_can_be_tied() -> None:
    model = _model()
    dense = nn.Parameter(torch.ones(WIDTH, WIDTH))
    for assign in (
        lambda: setattr(model[0], "weight", dense),
        lambda: setattr(model[0], "weight", None),
        lambda: model[0].register_parameter("weight", dense),
        lambda: setattr(model[0].weight, "data", dense.data),
        lambda: model[0].weight.copy_(dense),
    ):
        with pytest.raises(RuntimeError, match="tersor.decompress_"):
            assign()
    model[2].weight = model[0].weight
    assert model[2].weight_blob is model[0].weight_blob


def test_copies_of_the_weight_are_dense() -> None:
    layer = _model()[0]
    copied = copy.deepcopy(layer.weight)
    assert type(copied) is torch.Tensor
    assert torch.equal(copied, layer.dense_weight())
