"""Trains the dense ResNet-32 from scratch.

    python -m examples.cifar10.train_resnet --data cifar10_jpeg.npz

A run that was stopped goes on where its last epoch ended. The last epoch is kept: nothing is chosen
on the test set, whose error is only printed at the end. A GPU is used where there is one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from examples.cifar10.dataset import Images, draw_examples, error_percent, find_archive, load
from examples.cifar10.resnet import ResNet32, channels_last, compiled_for
from tersor.training import CosineRate, Examples, Loop, TrainingState
from tersor.training.cuda_graph import find_device, optimizer_rate
from tersor.training.loop import in_precision

HERE = Path(__file__).parent
BATCH_SIZE = 128
RATE = CosineRate(0.3, warmup=1 / 6)


def train(images: Images, epochs: int, state: Path, seed: int = 0) -> ResNet32:
    """SGD with Nesterov momentum on shifted and mirrored images; prints a line an epoch."""
    torch.manual_seed(seed)
    device = find_device()
    model = ResNet32().to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = images.to(device)
    optimizer = torch.optim.SGD(
        model.parameters(),
        **optimizer_rate(RATE.peak, device),
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
    )
    loop = Loop(
        model,
        optimizer,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        rate=RATE,
        forward=in_precision(compiled_for(images, model), bfloat16=True),
        to_input=channels_last,
    )

    def draw(epoch: int) -> Examples:
        generator = torch.Generator().manual_seed(seed * 1000 + epoch)
        return draw_examples(images, BATCH_SIZE, generator)

    kept = TrainingState(state, model=model, optimizer=optimizer)
    started = time.time()
    for result in loop.run(draw, range(kept.load(device), epochs)):
        kept.save(result.epoch)
        seconds = time.time() - started
        print(f"epoch {result.epoch}/{epochs}: {result}, {seconds:.1f} s", flush=True)
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
