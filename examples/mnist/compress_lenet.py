"""The recipe of the demo: prune gradually while retraining, then quantize and train the codebooks.

A dense network teaches (distillation). Weights are pruned by the score |w| * v^(1/4), v = Adam's
second moment, over all layers together. Nothing is chosen on the test set: the last state is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import tersor
from examples.mnist.dataset import augment, load_train, to_input
from examples.mnist.models import dense_model
from tersor.pipeline.compress import decompress_
from tersor.pruning.neurons import remove_dead_neurons_, sort_neurons_
from tersor.training import CosineRate, Examples, Recipe, RecipeTrainer
from tersor.training.cuda_graph import find_device

COMPRESSED = Path(__file__).parent / "compressed"
PLAIN = 0.3  # share of the images left without augmentation

RATE = CosineRate(2e-3, warmup=0.05, overlap=True)
recipe_of = functools.partial(Recipe, prune_rate=RATE)

RECIPES = {
    "lenet-300-100": recipe_of(prune_epochs=13, codebook_epochs=5, density=0.02),
    "lenet-5": recipe_of(prune_epochs=3, codebook_epochs=2, density=0.015, initial_density=0.3),
}


def by_second_moment(
    weights: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """Importance for pruning: magnitude times the fourth root of Adam's second moment."""
    return {
        name: w.detach().abs() * (optimizer.state[w]["exp_avg_sq"] ** 0.25 + 1e-12)
        for name, w in weights.items()
    }


class LeNetTrainer(RecipeTrainer):
    """A LeNet on augmented images of MNIST.

    Args:
        net: ``lenet-300-100`` or ``lenet-5``.
        recipe: see :class:`Recipe`; its ``start`` is a file of ``compressed/``, ``{}`` in place of
            the seed.
        seed: of the order and augmentation of the images.
        data: images uint8 and labels, in place of the whole training set.
        options: see :class:`RecipeTrainer`.
    """

    def __init__(
        self,
        net: str,
        recipe: Recipe,
        seed: int,
        data: tuple[torch.Tensor, torch.Tensor] | None = None,
        **options: Any,
    ) -> None:
        device = find_device()
        images, labels = data or load_train()
        model = dense_model(net)
        if recipe.start is not None:
            # A plain copy: the loaded model runs from its compressed form.
            loaded = tersor.load(COMPRESSED / recipe.start.format(seed), dense_model(net))
            assert isinstance(loaded, nn.Module)
            model.load_state_dict(decompress_(loaded).state_dict())
        self.layers = model.hidden_pairs()
        self.seed = seed
        self.images, self.labels = images.to(device), labels.to(device)
        super().__init__(
            model.to(device),
            dense_model(recipe.teacher or net).to(device),
            recipe,
            sample=to_input(self.images[:1000]).split(250),
            scores=by_second_moment,
            **options,
        )
        self._drawn: tuple[int, torch.Tensor, torch.Tensor] | None = None

    def draw(self, epoch: int) -> Examples:
        """The images in a new order, most of them moved, anew every ``redraw`` epochs."""
        generator = torch.Generator().manual_seed(1000 * self.seed + epoch)
        drawn = epoch - epoch % self.recipe.redraw
        if self._drawn is None or self._drawn[0] != drawn:
            source = generator
            if drawn != epoch:  # resumed
                source = torch.Generator().manual_seed(1000 * self.seed + drawn)
            moved = augment(self.images, source)
            keep = torch.rand(len(moved), generator=source) < PLAIN
            keep = keep.to(self.device)
            moved[keep] = self.images[keep]
            self._drawn = drawn, moved, self.teach(moved)
        _, moved, targets = self._drawn
        order = torch.randperm(len(moved), generator=generator).to(self.device)
        return Examples(moved, self.labels, order, targets)

    def to_input(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the network reads, in the order of channels that torch convolves fastest."""
        return to_input(inputs).view(-1, 28, 28, 1).permute(0, 3, 1, 2)

    def prunes_at(self, step: int, end: int) -> bool:
        """Every 16th step, once more after the descent's end."""
        return step % 16 == 15 and step <= end + 16

    def finish_pruning(self) -> None:
        """Removes dead neurons and sorts the others."""
        for producer, consumer in reversed(self.layers):
            remove_dead_neurons_(producer, consumer)
        for producer, consumer in self.layers:
            remove_dead_neurons_(producer, consumer)
            sort_neurons_(producer, consumer)


def compress_lenet(net: str, seed: int = 0, **options: Any) -> nn.Module:
    """Compresses a dense checkpoint by the recipe of the demo; arguments of :class:`LeNetTrainer`.

    Returns:
        The network, its weights pruned and quantized, as plain parameters.
    """
    return LeNetTrainer(net, RECIPES[net], seed, **options).run().cpu().eval()
