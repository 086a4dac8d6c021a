"""Every method on ResNet-32: files really written, errors really measured.

    python -m examples.cifar10.resnet_results --data cifar10_jpeg.npz

runs what is missing; ``--check`` evaluates every file again and fails where a row differs, and
``--table`` prints the rows as those of docs/results.md.

A run that was stopped goes on where its last epoch ended. Files stand in ``compressed/``, rows in
``docs/results.json``. Without the data a check says that it was skipped.
"""

from __future__ import annotations

import argparse
import copy
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from examples.cifar10.compress_resnet import Recipe, prune, save, share
from examples.cifar10.dataset import Images, error_percent, find_archive, load
from examples.cifar10.resnet import ResNet32, fold_norms_
from examples.rows import ROOT, Row, add_row, differences, linear8, markdown, measure, read_table
from examples.sharing import METHODS
from examples.training import find_device

HERE = Path(__file__).resolve().parent
DENSE = HERE / "checkpoints" / "resnet-32.safetensors"
NETWORK = "resnet-32"
SEEDS = (0, 1, 2)

# The methods of Choi et al., at one mask; then one that goes on from its pruned network.
RECIPES = {
    "papers": Recipe(density=0.19, prune_epochs=16, share_epochs=2, values=21),
    "best": Recipe(
        density=0.13, prune_epochs=8, share_epochs=1, move_epochs=2, bits=2.55, start="papers"
    ),
    "smaller": Recipe(
        density=0.075, prune_epochs=50, share_epochs=2, move_epochs=20, bits=2.3, start="best"
    ),
}


def dense_model() -> ResNet32:
    """The dense checkpoint."""
    model = ResNet32()
    model.load_state_dict(load_file(DENSE))
    return model.eval()


class Table:
    """Rows of ResNet-32, with the data that they need."""

    def __init__(self, archive: Path) -> None:
        self.training, self.test = load(archive)

    @functools.cached_property
    def dense_error(self) -> float:
        """Error of the dense checkpoint in per cent."""
        return error_percent(dense_model(), self.test)

    def evaluate(self, method: str, seed: int, path: Path) -> Row:
        """The row that a file gives."""
        return measure(
            (NETWORK, method, seed),
            path,
            fold_norms_(ResNet32()),
            self.dense_error,
            lambda model: error_percent(model, self.test),
        )

    def run(self, seeds: Sequence[int]) -> None:
        """Adds the missing rows, one at a time."""
        device = find_device()
        images, teacher = self.training.to(device), dense_model().to(device)
        teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        own = [name for name in RECIPES if name != "papers"]
        wanted = [("linear8", 0)] if 0 in seeds else []
        wanted += [(m, seed) for methods in (METHODS, own) for seed in seeds for m in methods]
        for method, seed in wanted:
            if any((r.method, r.seed) == (method, seed) for r in read_table([NETWORK])):
                continue
            print(f"{NETWORK} {method} {seed}", flush=True)
            path = HERE / "compressed" / f"{NETWORK}-{method}-{seed}.safetensors"
            if method == "linear8":
                model = dense_model()
                linear8(model)
            elif method in own:
                model = pruned(method, teacher, images, seed)
                share(model, teacher, images, "uniform", RECIPES[method], seed)
            else:
                model = pruned("papers", teacher, images, seed)
                share(model, teacher, images, method, RECIPES["papers"], seed)
            save(model, path)
            row = self.evaluate(method, seed, path)
            print(row, flush=True)
            add_row(row)


def pruned(name: str, teacher: ResNet32, images: Images, seed: int) -> ResNet32:
    """The network that a recipe prunes."""
    recipe = RECIPES[name]
    state = ROOT / "build" / f"{NETWORK}-pruned-{name}-{seed}.pt"
    state.parent.mkdir(exist_ok=True)
    initial = 1.0 if recipe.start is None else RECIPES[recipe.start].density
    if recipe.start is None or state.exists():
        model = copy.deepcopy(teacher)
    else:
        model = pruned(recipe.start, teacher, images, seed)
    prune(model, teacher, images, recipe, seed, state, initial)
    return model


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the archive; default: TERSOR_DATA")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--seed", type=int, choices=SEEDS, action="append", help="default: all")
    arguments = parser.parse_args()
    rows = read_table([NETWORK])
    if arguments.table:
        print("\n".join(markdown(rows, len(SEEDS))))
        return 0
    archive = find_archive(arguments.data)
    if archive is None:
        print("skipped, ResNet-32: no archive, give --data or TERSOR_DATA")
        return 0 if arguments.check else 2
    table = Table(archive)
    if not arguments.check:
        table.run(arguments.seed or SEEDS)
        return 0
    # Convolutions in other orders turn a few images of 10,000.
    wrong = differences(
        rows, lambda row: table.evaluate(row.method, row.seed, ROOT / row.file), near=0.05
    )
    print("\n".join(wrong) or f"{len(rows)} rows of ResNet-32 are what their files give")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
