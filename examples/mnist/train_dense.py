"""Trains the dense networks from scratch; the checkpoints beside this file came from it.

    python -m examples.mnist.train_dense lenet-300-100
    python -m examples.mnist.train_dense lenet-5

The last epoch is kept: nothing is chosen on the test set, whose error is only printed at the end.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from examples.mnist.dataset import augment, error_percent, load_test, load_train, to_input
from examples.mnist.models import MODELS
from tersor.training import Examples, Loop

HERE = Path(__file__).parent
EPOCHS = {"lenet-300-100": 30, "lenet-5": 10}
LEARNING_RATE = 2e-3
BATCH_SIZE = 256
PLAIN = 0.15  # share of the images left without augmentation
SEED = 0


def train(net: str, epochs: int) -> torch.nn.Module:
    """Trains with Adam and a cosine schedule on augmented images; prints a line an epoch."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    images, labels = load_train()
    model = MODELS[net]()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    steps = epochs * math.ceil(len(images) / BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def draw(epoch: int) -> Examples:
        moved = augment(images, generator)
        keep = torch.rand(len(images), generator=generator) < PLAIN
        moved[keep] = images[keep]
        return Examples(moved, labels, torch.randperm(len(images), generator=generator))

    loop = Loop(model, optimizer, batch_size=BATCH_SIZE, epochs=epochs, to_input=to_input)
    started = time.time()
    for result in loop.run(draw, range(epochs), after_step=lambda _: schedule.step()):
        seconds = time.time() - started
        print(f"{net} epoch {result.epoch}/{epochs}: {result}, {seconds:.0f} s", flush=True)
    return model


def main() -> None:
    """Command line: the network's name, and where to write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", choices=sorted(MODELS))
    parser.add_argument("--output", type=Path, help="default: checkpoints/<net>.safetensors")
    arguments = parser.parse_args()
    output = arguments.output or HERE / "checkpoints" / f"{arguments.net}.safetensors"
    model = train(arguments.net, EPOCHS[arguments.net])
    print(f"{arguments.net}: test error {error_percent(model.eval(), *load_test()):.2f} %")
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), output)
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
