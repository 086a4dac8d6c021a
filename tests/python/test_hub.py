"""Folders as the Hugging Face hub has them; the network is never reached."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from torch import nn

import tersor
from tersor.hub import TersorModel
from tersor.nn import CompressedLinear


class Network(nn.Module, TersorModel):
    """Two layers, one of which stays dense."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.body = nn.Linear(32, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.norm(torch.relu(self.body(x))))
        return out


def _compressed() -> Network:
    torch.manual_seed(1)
    made = tersor.compress_(Network(width=96), tersor.Config(overrides={"head": None}))
    assert isinstance(made, Network)
    return made.eval()


def test_a_compressed_model_comes_back(tmp_path: Path) -> None:
    model = _compressed()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"width": 96}
    back = Network.from_pretrained(str(tmp_path))
    assert isinstance(back.body, CompressedLinear)
    assert isinstance(back.head, nn.Linear)
    assert not back.training
    x = torch.randn(3, 32)
    with torch.inference_mode():
        assert torch.equal(back(x), model(x))


def test_a_dense_model_comes_back_dense(tmp_path: Path) -> None:
    model = Network(width=48)
    model.save_pretrained(tmp_path)
    back = Network.from_pretrained(str(tmp_path))
    assert torch.equal(back.body.weight, model.body.weight)


def test_the_card_says_what_was_done(tmp_path: Path) -> None:
    model = _compressed()
    card = {"base_model": "me/network", "accuracy": {"top-1": (71.2, 70.9), "loss": 0.4}}
    model.save_pretrained(tmp_path, model_card_kwargs={**card, "license": "mit"})
    found = ModelCard.load(tmp_path / "README.md")
    assert found.data.to_dict() == {
        "base_model": "me/network",
        "base_model_relation": "quantized",
        "library_name": "tersor",
        "license": "mit",
        "tags": ["model_hub_mixin", "pytorch_model_hub_mixin", "quantized", "tersor"],
    }
    made = tersor.report(model)
    assert f"{made.dense_bytes:,} → {made.stored_bytes:,} bytes ({made.ratio:.1f}×)" in found.text
    assert "- top-1: 71.2 dense, 70.9 compressed\n- loss: 0.4" in found.text
    rows = [line for line in found.text.splitlines() if line.startswith("| body ")]
    assert len(rows) == 1
    assert f"| {made.layers[0].stored_bytes:,} |" in rows[0]


def test_altered_and_foreign_files_are_refused(tmp_path: Path) -> None:
    model = _compressed()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not fit the model"):
        Network.from_pretrained(str(tmp_path), width=95)
    with pytest.raises(ValueError, match="map_location is cuda"):
        Network.from_pretrained(str(tmp_path), map_location="cuda")
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    content[-40] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(tersor.FormatError):
        Network.from_pretrained(str(tmp_path))
