"""The methods of Choi et al. on ResNet-32: one pruned network, quantized by each of the four.

Prunes the dense network gradually while retraining, then quantizes it by one of the methods and
fine-tunes codebooks and norms, in some recipes after training the entry that each weight takes;
the dense network teaches. Nothing is chosen on the test set but the bits for a code of the smallest
files. ``resnet_results.py`` runs it.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn

from examples.cifar10.dataset import Images, draw_examples, to_input
from examples.cifar10.resnet import ResNet32, ScaleShift, channels_last, compiled_for, fold_norms_
from examples.rows import save_quantized
from tersor.training import CosineRate, Examples, Recipe, RecipeTrainer
from tersor.training.cuda_graph import optimizer_rate
from tersor.training.loop import in_precision

# Pruning's rate rises for a tenth of the epochs: a high one throws a converged network away.
recipe_of = functools.partial(
    Recipe,
    prune_rate=CosineRate(0.02, warmup=0.1),
    assignment_rate=CosineRate(5e-3),
    codebook_rate=CosineRate(1e-3),
    descent=0.5,
    batch_size=128,
    bfloat16=True,
    temperature=4.0,
    teacher_weight=0.9,
)


class ResNetTrainer(RecipeTrainer):
    """ResNet-32 on shifted and mirrored images of CIFAR-10.

    Args:
        model, teacher, images: on one device.
        recipe: see :class:`Recipe`.
        seed: of the order and augmentation of the images.
        options: see :class:`RecipeTrainer`.
    """

    def __init__(
        self,
        model: ResNet32,
        teacher: ResNet32,
        images: Images,
        recipe: Recipe,
        seed: int,
        **options: Any,
    ) -> None:
        sample = to_input(images.pixels[:1000]).split(100)
        super().__init__(model, teacher, recipe, sample=sample, **options)
        self.images, self.seed = images, seed
        self.forward = in_precision(compiled_for(images, model), recipe.bfloat16)
        self.teacher = in_precision(compiled_for(images, teacher), recipe.bfloat16)

    def draw(self, epoch: int) -> Examples:
        """The images in a new order, shifted and mirrored anew."""
        generator = torch.Generator().manual_seed(10_000 * (self.seed + 1) + epoch)
        return draw_examples(self.images, self.recipe.batch_size, generator, self.teach)

    def to_input(self, inputs: torch.Tensor) -> torch.Tensor:
        """Normalised, in the order of channels that torch convolves fastest."""
        return channels_last(inputs)

    def weight_optimizer(self, rate: CosineRate) -> torch.optim.Optimizer:
        """SGD with Nesterov momentum, of norms too."""
        return torch.optim.SGD(
            self.model.parameters(),
            **optimizer_rate(rate.peak, self.device),
            momentum=0.9,
            nesterov=True,
            weight_decay=2e-4,
        )


def save(model: nn.Module, path: Path) -> None:
    """Writes a compressed network, quantized already.

    In the place of norms it has scales and shifts (:func:`resnet.fold_norms_`), in fp16.
    """
    plain = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for module in fold_norms_(plain).modules():
        if isinstance(module, ScaleShift):
            module.half()
    save_quantized(plain, path)
