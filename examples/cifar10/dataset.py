"""CIFAR-10 from one archive of image files, and the usual augmentation.

The archive is a ``.npz`` with ``data`` (all JPEG or PNG files on end, uint8), ``off`` (where each
begins, int64, one more than images), ``y`` (labels) and ``train`` (bool: in the training set). Its
path comes from ``--data`` or the environment's ``TERSOR_DATA`` (the archive, or a folder that has
``cifar10_jpeg.npz``).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tersor.training.loop import Examples

ARCHIVE = "cifar10_jpeg.npz"
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class Images:
    """Pixels uint8 ``[n, 3, 32, 32]`` and labels int64 ``[n]``."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device) -> Images:
        """The same on a device."""
        return Images(self.pixels.to(device), self.labels.to(device))


def find_archive(data: Path | None = None) -> Path | None:
    """The archive's path, or None where there is none."""
    named = data or (Path(os.environ["TERSOR_DATA"]) if "TERSOR_DATA" in os.environ else None)
    if named is None:
        return None
    path = named / ARCHIVE if named.is_dir() else named
    return path if path.is_file() else None


def load(path: Path) -> tuple[Images, Images]:
    """The 50,000 training images and the 10,000 test images."""
    with np.load(path) as archive:
        data, offsets = archive["data"], archive["off"]
        labels, train = archive["y"].astype(np.int64), archive["train"]
    pixels = np.empty((len(labels), 3, 32, 32), np.uint8)
    for i in range(len(labels)):
        with Image.open(io.BytesIO(data[offsets[i] : offsets[i + 1]].tobytes())) as image:
            pixels[i] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    halves = (train, ~train)
    first, second = (
        Images(torch.from_numpy(pixels[half]), torch.from_numpy(labels[half])) for half in halves
    )
    return first, second


def to_input(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 ``[n, 3, 32, 32]`` to what the network reads: normalised float32."""
    mean = torch.tensor(MEAN, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=pixels.device).view(1, 3, 1, 1)
    return (pixels.float() / 255.0 - mean) / std


def augment(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image shifted by up to 4 pixels on black, half of them mirrored: uint8, same shape."""
    n, device = len(pixels), pixels.device
    padded = torch.nn.functional.pad(pixels, (4, 4, 4, 4))
    top = torch.randint(0, 9, (n, 1), generator=generator)
    left = torch.randint(0, 9, (n, 1), generator=generator)
    rows = top + torch.arange(32)
    columns = left + torch.arange(32)
    mirrored = torch.rand(n, generator=generator) < 0.5
    columns[mirrored] = columns[mirrored].flip(1)
    rows, columns = rows.to(device).unsqueeze(2), columns.to(device).unsqueeze(1)
    index = torch.arange(n, device=device).view(n, 1, 1)
    return padded[index, :, rows, columns].permute(0, 3, 1, 2)


def draw_examples(
    images: Images,
    batch_size: int,
    generator: torch.Generator,
    teach: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Examples:
    """Shifted and mirrored images in a drawn order; what no full batch is left for is left out.

    Args:
        teach: gives the teacher's scores of pixels.
    """
    count = len(images.labels)
    size = min(batch_size, count)
    order = torch.randperm(count, generator=generator)
    order = order[: count // size * size].to(images.labels.device)
    moved = augment(images.pixels, generator)
    return Examples(moved, images.labels, order, None if teach is None else teach(moved))


@torch.inference_mode()
def error_percent(model: torch.nn.Module, images: Images) -> float:
    """Classification error in per cent."""
    wrong = 0
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    for x, y in zip(images.pixels.split(500), images.labels.split(500), strict=True):
        scores = model(to_input(x.to(device)))
        wrong += int((scores.argmax(1).cpu() != y).sum())
    return 100.0 * wrong / len(images.labels)
