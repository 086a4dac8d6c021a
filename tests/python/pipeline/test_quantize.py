"""Quantizing the weights of a model, where there are none too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tersor
from tersor import Config, LayerConfig


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
    model = nn.Sequential(nn.Embedding(8, 8), nn.LayerNorm(8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tersor.compress_(model, config)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(layer.compressed for layer in tersor.report(model).layers)
