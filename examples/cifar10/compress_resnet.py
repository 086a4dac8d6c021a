"""The methods of Choi et al. on ResNet-32: one pruned network, shared values by each of the four.

Prunes the dense network gradually while retraining, then shares values by one of the methods and
fine-tunes them with the norms, in some recipes after training which value each weight takes; the
dense network teaches. Nothing is chosen on the test set but the bits for a code of the smallest
files. ``resnet_results.py`` runs it.
"""

from __future__ import annotations

import copy
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import tersor
from examples.cifar10.dataset import Images, to_input
from examples.cifar10.passes import Passes
from examples.cifar10.resnet import ResNet32, ScaleShift, fold_norms_
from examples.sharing import share_by, share_uniform_within
from examples.training import bytes_so_far, rate_of
from tersor.calibration.sensitivity import hessian_diagonal
from tersor.pruning.masks import Masks, density_masks
from tersor.pruning.schedules import CubicSchedule
from tersor.quantizers.base import Quantized
from tersor.training.assignments import TrainedAssignments
from tersor.training.codebooks import SharedWeights


@dataclass(frozen=True)
class Recipe:
    """How the network is compressed.

    Attributes:
        density: share of the weights kept, over all layers.
        prune_epochs: the first half lowers the density, the second retrains.
        share_epochs: fine-tuning of shared values.
        move_epochs: before that, weights train on and take other values.
        values: beside zero, one set for all layers, of Hessian-weighted k-means; the other methods
            keep its weighted error.
        bits: for a code; uniform steps are then as many as need no more, whatever their error.
        start: name of the recipe whose pruned network is pruned further; None = the dense one.
        prune_rate, move_rate, share_rate: highest learning rates. Pruning's rises for a tenth of
            the epochs, as a high one throws a converged network away; all fall as a cosine.
    """

    density: float
    prune_epochs: int
    share_epochs: int
    move_epochs: int = 0
    values: int = 15
    bits: float | None = None
    start: str | None = None
    prune_rate: float = 0.02
    move_rate: float = 5e-3
    share_rate: float = 1e-3


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that are pruned and shared: of convolutions and of the last layer."""
    return {name: p for name, p in model.named_parameters() if p.dim() > 1}


def _cosine(start: float, progress: float) -> float:
    return start * 0.5 * (1 + math.cos(math.pi * progress))


def _rise_and_fall(highest: float, progress: float) -> float:
    if 10 * progress < 1:
        return highest * 10 * progress
    return _cosine(highest, (10 * progress - 1) / 9)


def _sgd(model: nn.Module, rate: float, device: torch.device) -> torch.optim.SGD:
    """What moves weights, and the norms with them."""
    return torch.optim.SGD(
        model.parameters(),
        **rate_of(rate, device),
        momentum=0.9,
        nesterov=True,
        weight_decay=2e-4,
    )


def prune(
    model: ResNet32,
    teacher: nn.Module,
    images: Images,
    recipe: Recipe,
    seed: int,
    state: Path,
    initial: float = 1.0,
) -> None:
    """Gradual pruning by magnitude while retraining, in place, from the density ``initial`` on.

    A run that was stopped goes on where its last epoch ended, which ``state`` keeps.
    """
    weights = weights_of(model)
    device = images.labels.device
    masks = Masks(weights)
    masks.set({name: w != 0 for name, w in weights.items()})
    optimizer = _sgd(model, recipe.prune_rate, device)
    masks.attach(optimizer)
    first = 0
    if state.exists():
        saved = torch.load(state, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        masks.load_state_dict(saved["masks"])
        first = saved["epoch"]
    passes = Passes(model, images, optimizer, teacher)
    end = recipe.prune_epochs * passes.steps // 2
    schedule = CubicSchedule(recipe.density, end, initial)
    for epoch in range(first, recipe.prune_epochs):

        def rate(part: float, epoch: int = epoch) -> float:
            return _rise_and_fall(recipe.prune_rate, (epoch + part) / recipe.prune_epochs)

        def between(step: int, epoch: int = epoch) -> None:
            step += epoch * passes.steps
            if step == end or (step < end and step % 16 == 0):
                scores = {name: w.detach().abs() for name, w in weights.items()}
                masks.set(density_masks(scores, schedule.density(step)))

        reached = passes.run(10_000 * (seed + 1) + epoch, rate, between)
        print(
            f"epoch {epoch + 1}/{recipe.prune_epochs}: {reached}, density {masks.density():.2%}, "
            f"{bytes_so_far(model, recipe.values):,} bytes, pruning",
            flush=True,
        )
        new = state.with_suffix(".new")
        saved = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "masks": masks.state_dict(),
            "epoch": epoch + 1,
        }
        torch.save(saved, new)
        os.replace(new, state)


def choose(method: str, model: ResNet32, images: Images, recipe: Recipe) -> dict[str, Quantized]:
    """Shared values for all layers together, by one of :data:`sharing.METHODS`."""
    weights = {n: w.detach().cpu().numpy() for n, w in weights_of(model).items()}
    sample = to_input(images.pixels[:1000]).split(100)
    diagonal = hessian_diagonal(model, sample)
    importance = {name: diagonal[name].cpu().numpy() for name in weights}
    if method == "uniform" and recipe.bits is not None:
        return share_uniform_within(weights, importance, recipe.bits)
    return share_by(method, weights, importance, recipe.values)


def _train(passes: Passes, epochs: int, highest: float, first_seed: int, what: str) -> None:
    """Passes at a rate that falls as a cosine."""
    for epoch in range(epochs):

        def rate(part: float, epoch: int = epoch) -> float:
            return _cosine(highest, (epoch + part) / epochs)

        reached = passes.run(first_seed + epoch, rate)
        size = bytes_so_far(passes.model, 255)
        print(f"epoch {epoch + 1}/{epochs}: {reached}, {size:,} bytes, {what}", flush=True)


def _move(
    model: ResNet32,
    teacher: nn.Module,
    images: Images,
    chosen: dict[str, Quantized],
    recipe: Recipe,
    seed: int,
) -> dict[str, Quantized]:
    """Trains which value each weight takes, and the norms, in place."""
    moving = TrainedAssignments(weights_of(model), chosen)
    optimizer = _sgd(model, recipe.move_rate, images.labels.device)
    passes = Passes(model, images, optimizer, teacher, moving.restore, moving.write)
    first = 10_000 * (seed + 1) + recipe.prune_epochs + recipe.share_epochs
    _train(passes, recipe.move_epochs, recipe.move_rate, first, "moving codes")
    return moving.shared()


def share(
    model: ResNet32, teacher: nn.Module, images: Images, method: str, recipe: Recipe, seed: int
) -> None:
    """Shares the values of a pruned network, in place, and fine-tunes them and the norms."""
    device = images.labels.device
    chosen = choose(method, model, images, recipe)
    if recipe.move_epochs:
        chosen = _move(model, teacher, images, chosen, recipe, seed)
    values = SharedWeights(weights_of(model), dict(chosen))
    others = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.Adam(
        [*values.codebooks.values(), *others],
        **rate_of(recipe.share_rate, device),
        capturable=device.type == "cuda",
    )
    passes = Passes(model, images, optimizer, teacher, values.gather_gradients, values.write)
    first = 10_000 * (seed + 1) + recipe.prune_epochs
    _train(passes, recipe.share_epochs, recipe.share_rate, first, method)


def save(model: ResNet32, path: Path) -> None:
    """Writes the compressed network, its values shared already.

    In the place of norms it has scales and shifts (:func:`resnet.fold_norms_`), in fp16.
    """
    shared = tersor.LayerConfig(codebook_size=255, kind="shared_fp16")
    plain = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for module in fold_norms_(plain).modules():
        if isinstance(module, ScaleShift):
            module.half()
    path.parent.mkdir(parents=True, exist_ok=True)
    tersor.save(
        tersor.compress_(plain, tersor.Config(linear=shared, conv=shared)), path, config=False
    )
