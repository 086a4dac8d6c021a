"""The MNIST data that the repository carries, and random affine augmentation."""

from __future__ import annotations

import gzip
import hashlib
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

DATA = Path(__file__).parent / "data"

# md5 of the raw idx files, as published with the data set.
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def _read(name: str, data: Path) -> npt.NDArray[np.uint8]:
    path = data / f"{name}.gz"
    raw = gzip.decompress(path.read_bytes())
    if hashlib.md5(raw).hexdigest() != MD5[name]:
        raise ValueError(f"{path}: not the canonical MNIST file (md5 differs)")
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">u4", dimensions, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def load_train(data: Path = DATA) -> tuple[torch.Tensor, torch.Tensor]:
    """The training set: images uint8 ``[60000, 28, 28]`` and labels int64 ``[60000]``."""
    images = _read("train-images-idx3-ubyte", data)
    labels = _read("train-labels-idx1-ubyte", data)
    return torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))


def load_test(data: Path = DATA) -> tuple[torch.Tensor, torch.Tensor]:
    """The test set: images float32 ``[10000, 1, 28, 28]`` in 0..1 and labels int64 ``[10000]``."""
    images = _read("t10k-images-idx3-ubyte", data)
    labels = _read("t10k-labels-idx1-ubyte", data)
    return to_input(torch.from_numpy(images.copy())), torch.from_numpy(labels.astype(np.int64))


def to_input(images: torch.Tensor) -> torch.Tensor:
    """uint8 ``[n, 28, 28]`` to what the networks read: float32 ``[n, 1, 28, 28]`` in 0..1."""
    return images.unsqueeze(1).float().div_(255.0)


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One random affine copy of each image: uint8 ``[n, 28, 28]`` to the same.

    Rotation up to 10 degrees, scale up to 10 % on each axis, shear up to 0.1, shift up to 1.5 px.
    """
    n = len(images)

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * limit

    angle = uniform(math.radians(10))
    scale_x, scale_y = 1 + uniform(0.1), 1 + uniform(0.1)
    shear = uniform(0.1)
    shift_x, shift_y = uniform(1.5 / 14), uniform(1.5 / 14)
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack(
        [
            torch.stack([cos * scale_x, -sin * scale_x + shear, shift_x], 1),
            torch.stack([sin * scale_y, cos * scale_y, shift_y], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta.to(images.device), [n, 1, 28, 28], align_corners=False)
    moved = F.grid_sample(images.unsqueeze(1).float(), grid, align_corners=False)
    return moved.round_().clamp_(0, 255).to(torch.uint8).squeeze(1)


@torch.inference_mode()
def error_percent(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Classification error in per cent of ``images`` float32 ``[n, 1, 28, 28]``."""
    wrong = 0
    for x, y in zip(images.split(1000), labels.split(1000), strict=True):
        wrong += int((model(x).argmax(1) != y).sum())
    return 100.0 * wrong / len(labels)
