"""The methods of Choi et al. on ResNet-32: one pruned network, shared values by each of the four.

Prunes the dense network gradually while retraining, then shares values by one of the methods and
fine-tunes them with the norms. Nothing is chosen on the test set. ``resnet_results.py`` runs it.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import tersor
from cifar10 import Images, augment, to_input
from resnet import ResNet32
from tersor.hessian import hessian_diagonal
from tersor.methods import Sharing, code_entropy, share_ecsq, share_kmeans, share_uniform
from tersor.prune import CubicSchedule, Masks, density_masks
from tersor.share import SharedWeights

METHODS = ("kmeans", "hessian", "ecsq", "uniform")  # from the worst to the best of the paper
BATCH = 128


@dataclass(frozen=True)
class Recipe:
    """How the network is compressed.

    Attributes:
        density: share of the weights kept, over all layers.
        values: shared values beside zero, one set for all layers.
        prune_epochs: the first half lowers the density, the second retrains.
        share_epochs: fine-tuning of shared values.
        prune_rate, share_rate: learning rates at the start; both fall as a cosine.
    """

    density: float
    values: int
    prune_epochs: int
    share_epochs: int
    prune_rate: float = 0.03
    share_rate: float = 3e-4


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that are pruned and shared: of convolutions and of the last layer."""
    return {name: p for name, p in model.named_parameters() if p.dim() > 1}


def run_epoch(
    model: nn.Module,
    images: Images,
    seed: int,
    optimizer: torch.optim.Optimizer,
    rate: Callable[[float], float],
    before_step: Callable[[], None] | None = None,
    after_step: Callable[[int], None] | None = None,
) -> float:
    """One pass over shifted and mirrored images; returns the mean loss.

    Args:
        seed: of the order and augmentation of the images.
        rate: the learning rate at a part of the epoch, 0 to 1.
        before_step, after_step: called around each step of the optimizer, the latter with its
            number within the epoch.
    """
    model.train()
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    batches = torch.randperm(len(images.labels), generator=generator).split(BATCH)
    total = 0.0
    for step, index in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rate(step / len(batches))
        x = to_input(augment(images.pixels[index], generator).to(device))
        with torch.autocast(device.type, torch.bfloat16):
            scores = model(x.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(scores.float(), images.labels[index].to(device))
        model.zero_grad(set_to_none=True)
        loss.backward()
        if before_step is not None:
            before_step()
        optimizer.step()
        if after_step is not None:
            after_step(step)
        total += loss.item() * len(index)
    return total / len(images.labels)


def prune(model: ResNet32, images: Images, recipe: Recipe, seed: int, state: Path) -> None:
    """Gradual pruning by magnitude while retraining, in place.

    A run that was stopped goes on where its last epoch ended, which ``state`` keeps.
    """
    weights = weights_of(model)
    masks = Masks(weights)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.prune_rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    masks.attach(optimizer)
    first = 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        masks.load_state_dict(saved["masks"])
        first = saved["epoch"]
    steps = math.ceil(len(images.labels) / BATCH)
    schedule = CubicSchedule(recipe.density, recipe.prune_epochs * steps // 2)
    for epoch in range(first, recipe.prune_epochs):

        def rate(part: float, epoch: int = epoch) -> float:
            progress = (epoch + part) / recipe.prune_epochs
            return recipe.prune_rate * 0.5 * (1 + math.cos(math.pi * progress))

        def after_step(step: int, epoch: int = epoch) -> None:
            if step % 16 == 0 and masks.density() > recipe.density:
                scores = {name: w.detach().abs() for name, w in weights.items()}
                masks.set(density_masks(scores, schedule.density(epoch * steps + step)))

        loss = run_epoch(
            model, images, 10_000 * (seed + 1) + epoch, optimizer, rate, after_step=after_step
        )
        print(
            f"epoch {epoch + 1}/{recipe.prune_epochs}: loss {loss:.4f}, "
            f"density {masks.density():.2%}, pruning",
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


def choose(method: str, model: ResNet32, images: Images, recipe: Recipe) -> dict[str, Sharing]:
    """Shared values for all layers together, by one of :data:`METHODS`."""
    weights = {n: w.detach().cpu().numpy() for n, w in weights_of(model).items()}
    if method == "kmeans":
        return share_kmeans(weights, recipe.values, together=True)
    device = next(model.parameters()).device
    sample = to_input(images.pixels[:1000].to(device)).split(100)
    diagonal = hessian_diagonal(model, sample)
    importance = {name: diagonal[name].cpu().numpy() for name in weights}
    if method == "hessian":
        return share_kmeans(weights, recipe.values, importance=importance, together=True)
    # The entropy that k-means would need, so that methods compare at about the same size.
    plain = share_kmeans(weights, recipe.values, together=True)
    bits = _entropy(plain)
    if method == "uniform":
        # A few large weights set the width of the steps: more of them are needed.
        found = plain
        for steps in range(recipe.values, 256, 16):
            finer = share_uniform(weights, steps, importance=importance, together=True)
            if _entropy(finer) > bits:
                break
            found = finer
        return found
    start = 2 * recipe.values + 1
    return share_ecsq(weights, start, bits=bits, importance=importance, together=True)


def _entropy(shared: dict[str, Sharing]) -> float:
    """Bits for a code."""
    return code_entropy(np.concatenate([s.codes.reshape(-1) for s in shared.values()]))


def share(model: ResNet32, images: Images, method: str, recipe: Recipe, seed: int) -> None:
    """Shares the values of a pruned network, in place, and fine-tunes them and the norms."""
    values = SharedWeights(weights_of(model), dict(choose(method, model, images, recipe)))
    others = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.Adam([*values.codebooks.values(), *others], recipe.share_rate)
    for epoch in range(recipe.share_epochs):

        def rate(part: float, epoch: int = epoch) -> float:
            progress = (epoch + part) / recipe.share_epochs
            return recipe.share_rate * 0.5 * (1 + math.cos(math.pi * progress))

        loss = run_epoch(
            model,
            images,
            10_000 * (seed + 1) + recipe.prune_epochs + epoch,
            optimizer,
            rate,
            values.gather_gradients,
            lambda _: values.write(),
        )
        print(f"epoch {epoch + 1}/{recipe.share_epochs}: loss {loss:.4f}, {method}", flush=True)


def simplify_norms_(model: nn.Module) -> None:
    """Norms with running means 0 and variances 1, which cost no bytes, that compute the same."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            with torch.no_grad():
                norm.weight.div_((norm.running_var + norm.eps).sqrt())
                norm.bias.sub_(norm.running_mean * norm.weight)
                norm.running_mean.zero_()
                norm.running_var.fill_(1.0 - norm.eps)


def save(model: ResNet32, path: Path) -> None:
    """Writes the compressed network, its values shared already and its norms in fp16."""
    shared = tersor.LayerConfig(values=255, kind="shared_fp16")
    plain = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    simplify_norms_(plain)
    for norm in plain.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.half()
    path.parent.mkdir(parents=True, exist_ok=True)
    tersor.save(tersor.compress_(plain, tersor.Config(linear=shared, conv=shared)), path)
