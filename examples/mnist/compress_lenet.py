"""The recipe of the demo: prune gradually while retraining, then share values and fine-tune them.

The dense network teaches (distillation). Weights go by the score |w| * v^(1/4), v = Adam's second
moment, over all layers together. Nothing is chosen on the test set: the last state is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from mnist import augment, load_train, to_input
from models import MODELS
from tersor.prune import CubicSchedule, Masks, density_masks
from tersor.share import SharedWeights

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Recipe:
    """How a network is compressed; shares are of all training steps."""

    epochs: int
    density: float
    values: int
    learning_rate: float = 2e-3
    batch: int = 256
    initial_density: float = 1.0
    pruned_by: float = 0.55
    shared_from: float = 0.7
    temperature: float = 3.0
    teacher_weight: float = 0.7
    plain: float = 0.3  # share of images left without augmentation


RECIPES = {
    "lenet-300-100": Recipe(epochs=18, density=0.02, values=15),
    "lenet-5": Recipe(epochs=5, density=0.015, values=15, initial_density=0.3),
}


@dataclass(frozen=True)
class Progress:
    """Where the training stands after an epoch; accuracy in per cent, on training images."""

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    density: float
    shared: bool

    def __str__(self) -> str:
        stage = "fine-tuning shared values" if self.shared else "pruning"
        return (
            f"epoch {self.epoch}/{self.epochs}: loss {self.loss:.4f}, "
            f"training accuracy {self.accuracy:.2f} %, density {100 * self.density:.2f} %, {stage}"
        )


def _loss(
    scores: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, recipe: Recipe
) -> torch.Tensor:
    t = recipe.temperature
    soft = F.kl_div(F.log_softmax(scores / t, 1), F.softmax(teacher / t, 1), reduction="batchmean")
    hard = F.cross_entropy(scores, labels)
    return recipe.teacher_weight * t * t * soft + (1 - recipe.teacher_weight) * hard


def _scores(
    weights: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    return {
        name: w.detach().abs() * (optimizer.state[w]["exp_avg_sq"] ** 0.25 + 1e-12)
        for name, w in weights.items()
    }


def compress_lenet(
    net: str,
    *,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    recipe: Recipe | None = None,
) -> nn.Module:
    """Compresses a dense checkpoint; the weights come back pruned and shared, as plain parameters.

    Args:
        net: ``lenet-300-100`` or ``lenet-5``.
        seed: of the order and augmentation of the images.
        progress: called after each epoch.
        recipe: another one than that of the demo.
    """
    recipe = recipe or RECIPES[net]
    generator = torch.Generator().manual_seed(seed)
    images, labels = load_train()
    model, teacher = MODELS[net](), MODELS[net]()
    for module in (model, teacher):
        module.load_state_dict(load_file(HERE / "checkpoints" / f"{net}.safetensors"))
    weights = {name: p for name, p in model.named_parameters() if name.endswith("weight")}
    others = [p for name, p in model.named_parameters() if not name.endswith("weight")]

    masks = Masks(weights)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    masks.attach(optimizer)
    shared: SharedWeights | None = None
    steps_per_epoch = math.ceil(len(images) / recipe.batch)
    steps = recipe.epochs * steps_per_epoch
    schedule = CubicSchedule(
        recipe.density, int(recipe.pruned_by * steps), initial=recipe.initial_density
    )
    step = 0
    for epoch in range(recipe.epochs):
        moved = augment(images, generator)
        keep = torch.rand(len(images), generator=generator) < recipe.plain
        moved[keep] = images[keep]
        total, right = 0.0, 0
        for index in torch.randperm(len(images), generator=generator).split(recipe.batch):
            rate = recipe.learning_rate * min(1.0, (step + 1) / (0.05 * steps))
            rate *= 0.5 * (1 + math.cos(math.pi * step / steps))
            if shared is None and step >= recipe.shared_from * steps:
                shared = SharedWeights(weights, recipe.values)
                optimizer = torch.optim.Adam([*shared.codebooks.values(), *others], lr=rate)
            for group in optimizer.param_groups:
                group["lr"] = rate
            x = to_input(moved[index])
            with torch.no_grad():
                target = teacher(x)
            scores = model(x)
            loss = _loss(scores, target, labels[index], recipe)
            model.zero_grad(set_to_none=True)
            loss.backward()
            if shared is not None:
                shared.gather_gradients()
            optimizer.step()
            if shared is not None:
                shared.write()
            elif step % 16 == 15 and step <= schedule.end + 16:
                density = schedule.density(step)
                masks.set(density_masks(_scores(weights, optimizer), density))
            step += 1
            total += loss.item() * len(index)
            right += int((scores.argmax(1) == labels[index]).sum())
        if progress is not None:
            n = len(images)
            now = masks.density()
            tuned = shared is not None
            progress(Progress(epoch + 1, recipe.epochs, total / n, 100 * right / n, now, tuned))
    return model.eval()
