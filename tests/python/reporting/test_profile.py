"""What a profile says of a model; its times are those of this machine, and are not judged."""

from __future__ import annotations

import json

import torch
from torch import nn

import tersor
from tersor import Config, LayerConfig


class Twice(nn.Module):
    """A layer that is called twice, a tied head, and one that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(90, 64)
        self.layer = nn.Linear(64, 64)
        self.idle = nn.Linear(64, 64)
        self.head = nn.Linear(64, 90, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.layer(self.embedding(ids)).relu()))


def test_a_profile_tells_of_each_layer_and_of_the_model() -> None:
    config = Config(linear=LayerConfig(codebook_size=63, execution="dense"))
    model = tersor.compress_(Twice().train(), config)
    ids = torch.arange(12).view(3, 4)
    profile = tersor.profile(model, ids)
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    lines = {line.name: line for line in profile.layers}
    assert list(lines) == ["embedding", "layer", "idle", "head"]
    assert [line.calls for line in profile.layers] == [1, 2, 0, 1]
    assert lines["layer"].runs == "dense (as set)"
    assert lines["layer"].held_bytes >= 64 * 64 * 4
    assert lines["layer"].dense_bytes == 64 * 64 * 4
    assert lines["embedding"].stored_bytes == model.embedding.info.total_bytes
    assert lines["head"].stored_bytes == lines["head"].dense_bytes == 0  # the embedding's
    assert lines["idle"].seconds == 0
    for line in profile.layers:
        assert line.seconds >= 0
        assert line.share == line.seconds / profile.seconds
    assert profile.speedup == profile.dense_seconds / profile.seconds
    assert json.loads(json.dumps(profile.to_json()))["layers"][1]["name"] == "layer"
    table = str(profile)
    assert "dense µs" in table.splitlines()[0]
    assert all(name in table for name in [*lines, "(all else)", "(model)"])


def test_keyword_arguments_are_passed_on() -> None:
    model = tersor.compress_(Twice().eval())
    profile = tersor.profile(model, {"ids": torch.arange(4)})
    assert profile.layers[0].calls == 1
