"""The methods of Choi et al. on ResNet-32: one pruned network, shared values by each of the four.

    python examples/cifar10/compress_resnet.py --data cifar10_jpeg.npz

Prunes the dense checkpoint gradually while retraining (a run that was stopped goes on where its
last epoch ended), then shares values by each method, fine-tunes them and writes a file; a line for
each says its size and test error. Files stand in ``build/cifar10``. Nothing is chosen on the test
set.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import tersor
from cifar10 import Images, augment, error_percent, find_archive, load, to_input
from resnet import ResNet32
from tersor.hessian import hessian_diagonal
from tersor.methods import Sharing, code_entropy, share_ecsq, share_kmeans, share_uniform
from tersor.prune import CubicSchedule, Masks, density_masks
from tersor.report import report
from tersor.share import SharedWeights

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "cifar10"
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
    """

    density: float = 0.2
    values: int = 31
    prune_epochs: int = 12
    share_epochs: int = 2
    prune_rate: float = 0.03
    share_rate: float = 1e-4


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that are pruned and shared: of convolutions and of the last layer."""
    return {name: p for name, p in model.named_parameters() if p.dim() > 1}


def run_epoch(
    model: nn.Module,
    images: Images,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    rate: Callable[[float], float],
    before_step: Callable[[], None] | None = None,
    after_step: Callable[[int], None] | None = None,
) -> float:
    """One pass over shifted and mirrored images; returns the mean loss.

    Args:
        rate: the learning rate at a part of the epoch, 0 to 1.
        before_step, after_step: called around each step of the optimizer, the latter with its
            number within the epoch.
    """
    model.train()
    generator = torch.Generator().manual_seed(10_000 + epoch)
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


def prune(model: ResNet32, images: Images, recipe: Recipe, state: Path) -> None:
    """Gradual pruning by magnitude while retraining, in place."""
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

        loss = run_epoch(model, images, epoch, optimizer, rate, after_step=after_step)
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
    if method == "uniform":
        return share_uniform(weights, recipe.values, importance=importance, together=True)
    # The entropy that k-means would need, so that methods compare at about the same size.
    plain = share_kmeans(weights, recipe.values, together=True)
    bits = code_entropy(np.concatenate([s.codes.reshape(-1) for s in plain.values()]))
    start = 2 * recipe.values + 1
    return share_ecsq(weights, start, bits=bits, importance=importance, together=True)


def share(model: ResNet32, images: Images, method: str, recipe: Recipe) -> None:
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
            recipe.prune_epochs + epoch,
            optimizer,
            rate,
            values.gather_gradients,
            lambda _: values.write(),
        )
        print(f"epoch {epoch + 1}/{recipe.share_epochs}: loss {loss:.4f}, {method}", flush=True)


def save(model: ResNet32, path: Path) -> None:
    """Writes the compressed network; its values are shared already."""
    shared = tersor.LayerConfig(values=255, kind="shared_fp16")
    compressed = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    tersor.save(tersor.compress_(compressed, tersor.Config(linear=shared, conv=shared)), path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the archive; default: TERSOR_DATA")
    parser.add_argument("--dense", type=Path, default=HERE / "checkpoints/resnet-32.safetensors")
    parser.add_argument("--method", choices=METHODS, action="append")
    parser.add_argument("--density", type=float, default=Recipe.density)
    parser.add_argument("--values", type=int, default=Recipe.values)
    parser.add_argument("--prune-epochs", type=int, default=Recipe.prune_epochs)
    parser.add_argument("--share-epochs", type=int, default=Recipe.share_epochs)
    parser.add_argument("--output", type=Path, default=BUILD)
    arguments = parser.parse_args()
    archive = find_archive(arguments.data)
    if archive is None:
        parser.error("no archive: give --data or TERSOR_DATA")
    if not arguments.dense.exists():
        parser.error(f"{arguments.dense} is not there: train it with train_resnet.py")
    training, test = load(archive)
    recipe = Recipe(
        density=arguments.density,
        values=arguments.values,
        prune_epochs=arguments.prune_epochs,
        share_epochs=arguments.share_epochs,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pruned = ResNet32()
    pruned.load_state_dict(load_file(arguments.dense))
    pruned.to(device)
    print(f"dense: test error {error_percent(pruned.eval(), test):.2f} %", flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    prune(pruned, training, recipe, arguments.output / f"resnet-32-pruned-{recipe.density:g}.pt")
    print(f"pruned: test error {error_percent(pruned.eval(), test):.2f} %", flush=True)
    for method in arguments.method or METHODS:
        model = copy.deepcopy(pruned)
        share(model, training, method, recipe)
        path = arguments.output / f"resnet-32-{method}.safetensors"
        save(model, path)
        loaded: nn.Module = ResNet32()
        tersor.load(path, loaded)
        with tersor.open(path) as file:
            totals = report(file, verify=True).totals
        print(
            f"{method}: test error {error_percent(loaded.eval(), test):.2f} %, "
            f"{totals.file_bytes:,} bytes, {totals.ratio_file:.2f}x by file bytes, "
            f"{totals.ratio_paper:.2f}x as the paper counts",
            flush=True,
        )


if __name__ == "__main__":
    main()
