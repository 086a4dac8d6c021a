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

from examples.cifar10.compress_resnet import ResNetTrainer, recipe_of, save
from examples.cifar10.dataset import Images, error_percent, find_archive, load
from examples.cifar10.resnet import ResNet32, fold_norms_
from examples.rows import (
    ROOT,
    Row,
    check,
    linear8,
    markdown,
    measure,
    read_table,
    results_parser,
    run_missing,
)
from tersor.quantizers.equal_error import QUANTIZERS
from tersor.training import Recipe
from tersor.training.cuda_graph import find_device

show = functools.partial(print, flush=True)  # a line an epoch
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


def recipe_for(method: str) -> Recipe:
    """The recipe of a method: its own, or that of the papers with one of their quantizers."""
    return RECIPES.get(method) or dataclasses.replace(RECIPES["papers"], quantizer=method)


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

    def evaluate(self, network: str, method: str, seed: int, path: Path) -> Row:
        """The row that a file gives."""
        return measure(
            (network, method, seed),
            path,
            fold_norms_(ResNet32()),
            self.dense_error,
            lambda model: error_percent(model, self.test),
        )

    @functools.cached_property
    def images(self) -> Images:
        """What trains, on the device that does."""
        return self.training.to(find_device())

    @functools.cached_property
    def teacher(self) -> ResNet32:
        """The dense network, beside them."""
        teacher = dense_model().to(self.images.labels.device)
        teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return teacher

    def run(self, seeds: Sequence[int]) -> None:
        """Adds the missing rows, one at a time."""
        own = [name for name in RECIPES if name != "papers"]
        wanted = [(NETWORK, "linear8", 0)] if 0 in seeds else []
        for methods in (QUANTIZERS, own):
            wanted += [(NETWORK, method, seed) for seed in seeds for method in methods]
        run_missing(wanted, self.make, self.evaluate)

    def make(self, network: str, method: str, seed: int) -> Path:
        """Runs one method and writes its file."""
        path = HERE / "compressed" / f"{network}-{method}-{seed}.safetensors"
        if method == "linear8":
            model = dense_model()
            linear8(model)
        else:
            model = self.pruned("papers" if method in QUANTIZERS else method, seed)
            trainer = self.trainer(model, recipe_for(method), method, seed)
            trainer.train_quantized(trainer.quantize())
        save(model, path)
        return path

    def pruned(self, name: str, seed: int) -> ResNet32:
        """The network that a recipe prunes."""
        recipe = RECIPES[name]
        if recipe.start is None or _state(name, seed).exists():
            model = copy.deepcopy(self.teacher)
        else:
            model = self.pruned(recipe.start, seed)
        self.trainer(model, recipe, name, seed).prune()
        return model

    def trainer(self, model: ResNet32, recipe: Recipe, name: str, seed: int) -> ResNetTrainer:
        """The trainer that takes a network through a recipe, its state named after a method."""
        state = _state(name, seed)
        return ResNetTrainer(
            model, self.teacher, self.images, recipe, seed, state=state, progress=show
        )


def _state(name: str, seed: int) -> Path:
    return ROOT / "build" / "training" / f"{NETWORK}-{name}-{seed}.pt"


def main() -> int:
    """Command line."""
    parser = results_parser(__doc__)
    parser.add_argument("--data", type=Path, help="the archive; default: TERSOR_DATA")
    parser.add_argument("--seed", type=int, choices=SEEDS, action="append", help="default: all")
    arguments = parser.parse_args()
    rows = read_table([NETWORK])
    if arguments.table:
        print(*markdown(rows, len(SEEDS)), sep="\n")
        return 0
    archive = find_archive(arguments.data)
    if archive is None:
        print("skipped, ResNet-32: no archive, give --data or TERSOR_DATA")
        return 0 if arguments.check else 2
    table = Table(archive)
    if arguments.check:
        # Convolutions in other orders turn a few images of 10,000.
        return check(rows, table.evaluate, near=0.05)
    table.run(arguments.seed or SEEDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
