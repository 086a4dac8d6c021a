"""Two processes with half of the inputs each make what one makes with all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import tersor
from tersor import Config, LayerConfig


class Branches(nn.Module):
    """Some inputs reach a layer more."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Linear(48, 48), nn.ReLU()) for _ in range(2))
        )
        self.extra, self.head = nn.Linear(48, 48), nn.Linear(48, 48)

    def forward(self, x: torch.Tensor, more: bool) -> torch.Tensor:
        x = self.blocks(x)
        if more:
            x = x + self.extra(x)
        y: torch.Tensor = self.head(x)
        return y


def batches() -> list[tuple[torch.Tensor, bool]]:
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(32, 48, generator=g), number < 2) for number in range(4)]


CONFIGS = (
    Config(linear=LayerConfig(density=0.5, codebook_size=15)),
    Config(target_ratio=6),
)


def compress(data: list[tuple[torch.Tensor, bool]]) -> list[dict[str, torch.Tensor]]:
    made = []
    for config in CONFIGS:
        model = tersor.compress_(Branches().eval(), config, data=data, progress=None)
        weights = {f"{n}.weight": m.dense_weight() for n, m in model.named_modules() if is_made(m)}
        made.append({**model.state_dict(), **weights})
    return made


def is_made(module: nn.Module) -> bool:
    return isinstance(module, tersor.nn.Compressed)


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(compress(batches()[2 * rank : 2 * rank + 2]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_make_the_model_of_one(tmp_path: Path) -> None:
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for own, other in zip(first, second, strict=True):
        assert own.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in own.items())
    # From one process sums differ by their order, which gives a weight in a hundred another code.
    alone = compress(batches())[0]
    for name in (name for name in alone if name.endswith(".weight")):
        same = alone[name].isclose(first[0][name], rtol=1e-3, atol=1e-6)
        assert same.float().mean() > 0.99, name
