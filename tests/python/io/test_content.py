"""What a file holds, read as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from networks import LanguageModel, net, two_linears

import tersor
from tersor import Config, LayerConfig
from tersor.io import container, layer_records
from tersor.io.content import read_content
from tersor.io.state_dict import file_tensors


def test_blobs_and_tensors_go_by_their_dense_names(tmp_path: Path) -> None:
    model = tersor.compress_(net(), Config(overrides={"conv": LayerConfig(precision="low")}))
    tersor.save(model, tmp_path / "m")
    content = read_content(tmp_path / "m", None)
    assert content.blobs.keys() == {"conv.weight", "fc.weight", "again.weight"}
    assert content.blobs["fc.weight"] is content.blobs["again.weight"]
    assert torch.equal(content.blobs["conv.weight"], model.get_buffer("conv.weight_blob"))
    state = model.state_dict()
    assert content.tensors.keys() == {name for name in state if not name.endswith("_blob")}
    for name, value in content.tensors.items():  # coded vectors too
        assert torch.equal(value, state[name])
        assert value.dtype == state[name].dtype
    assert content.records.of("conv.weight").precision == "low"
    assert content.records.of("fc.weight").precision == "high"


def test_shared_tensors_are_one_tensor(tmp_path: Path) -> None:
    tersor.save(LanguageModel(), tmp_path / "m")
    content = read_content(tmp_path / "m", None)
    assert content.tensors["head.weight"] is content.tensors["embedding.weight"]
    assert not content.blobs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"*": {"precision": "lowest"}}', "precision 'lowest' of '*' is none of highest, high"),
        ('{"0.weight": {"activation": "tanh"}}', "activation 'tanh' of '0.weight' is none of none"),
        ('{"0.weight": 3}', "the record of '0.weight' is malformed"),
    ],
)
def test_records_of_unknown_arithmetic_are_refused(text: str, message: str, tmp_path: Path) -> None:
    tensors, _ = file_tensors(tersor.compress_(two_linears()).state_dict())
    container.write_file(tmp_path / "m", tensors, {layer_records.KEY: text})
    with pytest.raises(tersor.FormatError) as error:
        tersor.load_model(tmp_path / "m", two_linears())
    assert message in str(error.value)
    assert str(tmp_path / "m") in str(error.value)


def test_unknown_members_of_records_are_left_out(tmp_path: Path) -> None:
    tensors, _ = file_tensors(tersor.compress_(two_linears()).state_dict())
    text = '{"0.weight": {"precision": "low", "newer": "x"}}'
    container.write_file(tmp_path / "m", tensors, {layer_records.KEY: text})
    loaded = tersor.load_model(tmp_path / "m", two_linears())
    assert loaded.get_submodule("0").precision == "low"
