"""Every method on ResNet-32: files really written, errors really measured.

    python -m examples.cifar10.resnet_results --data cifar10_jpeg.npz

runs what is missing; ``--check`` evaluates every file again and fails where a row differs, and
``--table`` prints the rows as those of docs/results.md.

A run that was stopped resumes where its last epoch ended. Files stand in ``compressed/``, rows in
``docs/results.json``. Without the data a check says that it was skipped.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from examples.cifar10.compress_resnet import ResNetCompressor, recipe_of, save
from examples.cifar10.dataset import Images, error_percent, find_archive, load
from examples.cifar10.resnet import ResNet32, fold_norms_
from examples.rows import (
    ROOT,
    Row,
    add_row,
    check,
    linear8,
    measure,
    print_table,
    read_table,
    results_parser,
)
from tersor.quantizers.equal_error import QUANTIZERS
from tersor.training.cuda_graph import find_device
from tersor.training.recipe_trainer import Progress

HERE = Path(__file__).resolve().parent
DENSE = HERE / "checkpoints" / "resnet-32.safetensors"
NETWORK = "resnet-32"
SEEDS = (0, 1, 2)

# The methods of Choi et al., at one mask; then one that goes on from its pruned network.
RECIPES = {
    "papers": recipe_of(density=0.19, prune_epochs=16, codebook_epochs=2, codebook_size=21),
    "best": recipe_of(
        density=0.13,
        initial_density=0.19,
        start="papers",
        prune_epochs=8,
        assignment_epochs=2,
        codebook_epochs=1,
        quantizer="uniform",
        bits=2.55,
    ),
    "smaller": recipe_of(
        density=0.075,
        initial_density=0.13,
        start="best",
        prune_epochs=50,
        assignment_epochs=20,
        codebook_epochs=2,
        quantizer="uniform",
        bits=2.3,
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
        wanted += [(m, seed) for methods in (QUANTIZERS, own) for seed in seeds for m in methods]
        for method, seed in wanted:
            if any((r.method, r.seed) == (method, seed) for r in read_table([NETWORK])):
                continue
            print(f"{NETWORK} {method} {seed}", flush=True)
            path = HERE / "compressed" / f"{NETWORK}-{method}-{seed}.safetensors"
            if method == "linear8":
                model = dense_model()
                linear8(model)
            else:
                model = pruned(method if method in own else "papers", teacher, images, seed)
                quantize(model, method, teacher, images, seed)
            save(model, path)
            row = self.evaluate(method, seed, path)
            print(row, flush=True)
            add_row(row)


def _state(name: str, seed: int) -> Path:
    return ROOT / "build" / "training" / f"{NETWORK}-{name}-{seed}.pt"


def pruned(name: str, teacher: ResNet32, images: Images, seed: int) -> ResNet32:
    """The network that a recipe prunes."""
    recipe = RECIPES[name]
    state = _state(name, seed)
    if recipe.start is None or state.exists():
        model = copy.deepcopy(teacher)
    else:
        model = pruned(recipe.start, teacher, images, seed)
    ResNetCompressor(model, teacher, images, recipe, seed, state, print_progress).prune()
    return model


def quantize(model: ResNet32, method: str, teacher: ResNet32, images: Images, seed: int) -> None:
    """Quantizes a pruned network by a recipe or a method, in place, and fine-tunes it."""
    papers = dataclasses.replace(RECIPES["papers"], quantizer=method)
    recipe = RECIPES.get(method, papers)
    state = _state(method, seed)
    compressor = ResNetCompressor(model, teacher, images, recipe, seed, state, print_progress)
    compressor.train_quantized(compressor.quantize())


def print_progress(progress: Progress) -> None:
    """A line an epoch."""
    print(progress, flush=True)


def main() -> int:
    """Command line."""
    parser = results_parser(__doc__)
    parser.add_argument("--data", type=Path, help="the archive; default: TERSOR_DATA")
    parser.add_argument("--seed", type=int, choices=SEEDS, action="append", help="default: all")
    arguments = parser.parse_args()
    rows = read_table([NETWORK])
    if arguments.table:
        print_table(rows, len(SEEDS))
        return 0
    archive = find_archive(arguments.data)
    if archive is None:
        print("skipped, ResNet-32: no archive, give --data or TERSOR_DATA")
        return 0 if arguments.check else 2
    table = Table(archive)
    if arguments.check:
        # Convolutions in other orders turn a few images of 10,000.
        return check(rows, lambda r: table.evaluate(r.method, r.seed, ROOT / r.file), near=0.05)
    table.run(arguments.seed or SEEDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
