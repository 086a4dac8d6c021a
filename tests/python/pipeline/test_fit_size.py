"""A size is met in few tries, on real bytes, with tables and everything else counted."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import bytes_of
from torch import nn

import tersor
from tersor import Config


class Words(nn.Module):
    """A table, and layers of which one has small errors that matter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(400, 64)
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(3))
        )
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 64)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.norm(self.blocks(self.table(words))))
        return y


def words(seed: int = 1) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 400, (8, 12), generator=g) for _ in range(4)]


@pytest.mark.parametrize("ratio", [6.0, 12.0])
def test_a_size_is_met_in_three_tries(ratio: float, tmp_path: Path) -> None:
    model, lines = Words().eval(), []
    limit = sum(p.numel() * 4 for p in model.parameters()) // ratio
    tersor.compress_(model, Config(target_ratio=ratio), data=words(), progress=lines.append)
    tersor.save(model, tmp_path / "m")
    assert 0.97 * limit <= (tmp_path / "m").stat().st_size <= limit
    assert 1 <= sum(line.startswith("try") for line in lines) <= 3
    assert any("s left" in line for line in lines)
    assert isinstance(model.table, tersor.nn.Compressed)


def test_outputs_are_nearer_than_without_inputs() -> None:
    dense: Any = Words().eval()
    errors = []
    for data in (None, words()):
        made = tersor.compress_(copy.deepcopy(dense), Config(target_ratio=10), data=data)
        with torch.no_grad():
            pairs = [(made(x), dense(x)) for x in words(7)]
        errors.append(sum(float((a - b).square().mean()) for a, b in pairs))
    assert errors[1] < 0.7 * errors[0]


def test_the_same_is_made_each_time() -> None:
    made = [tersor.compress_(Words().eval(), Config(target_ratio=8), data=words()) for _ in "ab"]
    assert bytes_of(made[0]) == bytes_of(made[1])


def test_what_cannot_be_reached_says_how_small_it_gets() -> None:
    model = Words().eval()
    before = bytes_of(model)
    with pytest.raises(ValueError, match=r"target_ratio=3000 .* smallest configuration takes \d"):
        tersor.compress_(model, Config(target_ratio=3000), data=words())
    assert bytes_of(model) == before
