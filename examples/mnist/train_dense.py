"""Trains the dense networks from scratch; the checkpoints beside this file came from it.

    python -m examples.mnist.train_dense lenet-300-100
    python -m examples.mnist.train_dense lenet-5

The last epoch is kept: nothing is chosen on the test set, whose error is only printed at the end.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from examples.mnist.dataset import augment, error_percent, load_test, load_train, to_input
from examples.mnist.models import MODELS

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Recipe:
    """How a dense network is trained."""

    epochs: int
    learning_rate: float
    batch: int = 256
    plain: float = 0.15  # share of images left without augmentation
    seed: int = 0


RECIPES = {
    "lenet-300-100": Recipe(epochs=30, learning_rate=2e-3),
    "lenet-5": Recipe(epochs=10, learning_rate=2e-3),
}


def train(net: str, recipe: Recipe) -> torch.nn.Module:
    """Trains with Adam and a cosine schedule on augmented images; prints a line an epoch."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    images, labels = load_train()
    model = MODELS[net]()
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    steps = recipe.epochs * math.ceil(len(images) / recipe.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    started = time.time()
    for epoch in range(recipe.epochs):
        moved = augment(images, generator)
        keep = torch.rand(len(images), generator=generator) < recipe.plain
        moved[keep] = images[keep]
        total = 0.0
        for index in torch.randperm(len(images), generator=generator).split(recipe.batch):
            loss = F.cross_entropy(model(to_input(moved[index])), labels[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(index)
        print(
            f"{net} epoch {epoch + 1}/{recipe.epochs}: loss {total / len(images):.4f}, "
            f"{time.time() - started:.0f} s",
            flush=True,
        )
    return model


def main() -> None:
    """Command line: the network's name, and where to write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", choices=sorted(MODELS))
    parser.add_argument("--output", type=Path, help="default: checkpoints/<net>.safetensors")
    arguments = parser.parse_args()
    output = arguments.output or HERE / "checkpoints" / f"{arguments.net}.safetensors"
    model = train(arguments.net, RECIPES[arguments.net])
    print(f"{arguments.net}: test error {error_percent(model.eval(), *load_test()):.2f} %")
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), output)
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
