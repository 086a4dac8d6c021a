"""Trains the dense ResNet-32 from scratch.

    python -m examples.cifar10.train_resnet --data cifar10_jpeg.npz

A run that was stopped goes on where its last epoch ended. The last epoch is kept: nothing is chosen
on the test set, whose error is only printed at the end. A GPU is used where there is one.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from examples.cifar10.dataset import Images, error_percent, find_archive, load
from examples.cifar10.passes import Passes
from examples.cifar10.resnet import ResNet32
from examples.training import find_device, rate_of

HERE = Path(__file__).parent


def learning_rate(progress: float) -> float:
    """Up for a sixth of the steps, then down as a cosine; ``progress`` is 0 to 1."""
    if 6 * progress < 1:
        return 0.3 * 6 * progress
    return 0.15 * (1 + math.cos(math.pi * (6 * progress - 1) / 5))


def train(images: Images, epochs: int, state: Path, seed: int = 0) -> ResNet32:
    """SGD with Nesterov momentum on shifted and mirrored images; prints a line an epoch."""
    torch.manual_seed(seed)
    device = find_device()
    model = ResNet32().to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        model.parameters(),
        **rate_of(0.1, device),
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
    )
    first = 0
    if state.exists():
        saved = torch.load(state, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["epoch"]
    passes = Passes(model, images.to(device), optimizer)
    for epoch in range(first, epochs):
        started = time.time()

        def rate(part: float, epoch: int = epoch) -> float:
            return learning_rate((epoch + part) / epochs)

        reached = passes.run(seed * 1000 + epoch, rate)
        new = state.with_suffix(".new")
        torch.save(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "epoch": epoch + 1,
            },
            new,
        )
        os.replace(new, state)
        seconds = time.time() - started
        print(f"epoch {epoch + 1}/{epochs}: {reached}, {seconds:.1f} s", flush=True)
    return model


def main() -> None:
    """Command line: the data, how long, and where to write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the archive; default: TERSOR_DATA")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--output", type=Path, default=HERE / "checkpoints/resnet-32.safetensors")
    arguments = parser.parse_args()
    archive = find_archive(arguments.data)
    if archive is None:
        parser.error("no archive: give --data or TERSOR_DATA")
    training, test = load(archive)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    state = arguments.output.with_suffix(".state")
    model = train(training, arguments.epochs, state).eval()
    print(f"test error {error_percent(model, test):.2f} %")
    contiguous = {name: t.cpu().contiguous() for name, t in model.state_dict().items()}
    save_file(contiguous, arguments.output)
    state.unlink()
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
