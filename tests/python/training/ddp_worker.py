"""A rank of the data-parallel test: prunes and quantizes while training, and writes what it has.

RANK=0 WORLD_SIZE=2 python ddp_worker.py FOLDER pieces|compressor
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tersor.pruning.masks import Masks, density_masks
from tersor.pruning.schedules import CubicSchedule
from tersor.training import Compressor, Schedule
from tersor.training.codebooks import SharedWeights


@atexit.register
def refuse_threads() -> None:
    """Fails a rank that leaves threads of its process group for the interpreter's exit to race."""
    tasks = Path("/proc/self/task")  # of Linux
    names = [(task / "comm").read_text().strip() for task in tasks.glob("*")]
    if left := [name for name in names if "gloo" in name]:
        print(f"threads at the interpreter's exit: {left}", file=sys.stderr, flush=True)
        os._exit(3)


def leave() -> NoReturn:
    """Ends the rank.

    The reducer of torch 2.13's DistributedDataParallel is never freed and keeps the process group's
    threads, past ``destroy_process_group``. An exit of the interpreter would pull down what they
    use while they run: "terminate called without an active exception", in some runs.
    """
    dist.barrier()  # no rank may end while another still waits for it
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def with_pieces(model: nn.Module, step: Callable[[int], None]) -> dict[str, Any]:
    """Masks while training, then shared weights whose codebooks are trained."""
    weights = {n: p for n, p in model.named_parameters() if n.endswith("weight")}
    masks = Masks(weights)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    masks.attach(optimizer)
    schedule = CubicSchedule(0.2, 60)
    for i in range(80):
        step(i)
        optimizer.step()
        if i % 8 == 7:
            scores = {
                n: p.detach().abs() * optimizer.state[p]["exp_avg_sq"] ** 0.25
                for n, p in weights.items()
            }
            masks.set(density_masks(scores, schedule.density(i)))
    shared = SharedWeights(weights, 7)
    codebooks = torch.optim.Adam(shared.codebooks.values(), 5e-3)
    shared.attach(codebooks)
    for i in range(30):
        step(i)
        codebooks.step()
    return {
        "weights": dict(weights), "masks": masks.state_dict(), "codes": shared.codes,
        "codebooks": dict(shared.codebooks),
    }  # fmt: skip


def with_compressor(model: nn.Module, step: Callable[[int], None]) -> dict[str, Any]:
    """A Compressor over the whole of it."""
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    schedule = Schedule(0.2, prune_end=60, share_at=80, prune_every=8, codebook_size=7)
    compressor = Compressor(model, schedule).attach(optimizer)
    for i in range(110):
        step(i)
        optimizer.step()
    state = compressor.state_dict()
    return {"weights": dict(compressor.weights), "masks": state["masks"], "codes": state["codes"]}


WAYS = {"pieces": with_pieces, "compressor": with_compressor}


def main(folder: Path, way: str) -> None:
    """Trains on data of the rank's own; rank 0's first weights become those of all."""
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    torch.manual_seed(rank)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4))
    parallel = DistributedDataParallel(model)
    x, y = torch.randn(400, 20), torch.randint(0, 4, (400,))

    def step(index: int) -> None:
        batch = slice(index * 40 % 400, index * 40 % 400 + 40)
        model.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(parallel(x[batch]), y[batch]).backward()

    torch.save({"data": x, **WAYS[way](model, step)}, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    main(Path(sys.argv[1]), sys.argv[2])
    leave()
