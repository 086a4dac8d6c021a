"""Each layer type is compressed, or stays dense for the reason that its row gives."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

import tersor
from tersor import Config, LayerConfig
from tersor.nn import Compressed
from tersor.nn.matrices import matrices_of
from tersor.nn.registry import registered
from tests.compat.cases import ROUNDING, relative_error
from tests.compat.layers import ROWS, Row


def _built(row: Row) -> nn.Module:
    torch.manual_seed(0)
    return row.build().eval()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_layer_does_what_its_row_says(row: Row) -> None:
    model, dense = _built(row), _built(row)
    tersor.compress_(model, Config.balanced())
    (line,) = [line for line in tersor.report(model).layers if line.name == row.place]
    layer = model.get_submodule(row.place)
    assert line.compressed == bool(matrices_of(layer)) == (row.reason is None)
    if row.reason is not None:
        plain = line.reason == row.reason
        assert plain or re.fullmatch(row.reason, line.reason), line.reason
    if not row.shapes:
        return
    called = []
    layer.register_forward_hook(lambda *_: called.append(layer))
    with torch.no_grad():
        found = model(*row.inputs)
        same_weights = copy.deepcopy(model)
        expected = tersor.decompress_(same_weights)(*row.inputs)
        original = dense(*row.inputs)
    assert bool(called) == row.runs
    assert relative_error(found, expected) < ROUNDING[torch.float32]
    # Where nothing in the model is compressed, nothing changes at all.
    any_compressed = any(isinstance(module, Compressed) for module in model.modules())
    assert torch.equal(found, original) == (not any_compressed)


def test_every_registered_type_has_a_row() -> None:
    compressed = {row.name for row in ROWS if row.reason is None}
    assert {f"`nn.{kind.__name__}`" for kind in registered()} <= compressed


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(density=0.5),
        Config(biases=LayerConfig(codebook_size=15)),
        Config(joint_codebook=LayerConfig(codebook_size=63)),
    ],
    ids=["default", "density", "biases", "joint"],
)
def test_a_model_without_layers_to_compress_stays_as_it_is(config: Config) -> None:
    model = nn.Sequential(nn.PReLU(8), nn.LayerNorm(8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tersor.compress_(model, config)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(layer.compressed for layer in tersor.report(model).layers)


def test_no_target_can_be_met_where_no_layer_can_be_compressed() -> None:
    model = nn.Sequential(nn.PReLU(8), nn.LayerNorm(8))
    with pytest.raises(ValueError, match="no layer of this model can be compressed"):
        tersor.compress_(model, Config(target_ratio=2.0))
