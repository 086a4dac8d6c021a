"""The layers that the benchmark of sparse products runs, made from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tersor.codec import csr
from tersor.codec.blob import CompressedTensor


@dataclass(frozen=True)
class Shape:
    """A layer: its size, the part of the weights kept, the part of the inputs that is not zero."""

    name: str
    inputs: int
    outputs: int
    density: float
    active: float = 1.0
    values: int = 15  # shared values beside 0


# Han et al., EIE (arXiv 1602.01528), table III.
EIE = [
    Shape("Alex-6", 9216, 4096, 0.09, 0.351),
    Shape("Alex-7", 4096, 4096, 0.09, 0.353),
    Shape("Alex-8", 4096, 1000, 0.25, 0.375),
    Shape("VGG-6", 25088, 4096, 0.04, 0.183),
    Shape("VGG-7", 4096, 4096, 0.04, 0.375),
    Shape("VGG-8", 4096, 1000, 0.23, 0.411),
    Shape("NT-We", 4096, 600, 0.10),
    Shape("NT-Wd", 600, 8791, 0.11),
    Shape("NT-LSTM", 1201, 2400, 0.10),
]
SHAPES = EIE + [Shape(f"TF-{density}", 4096, 11008, density / 100) for density in (10, 30, 50)]

# AlexNet as Deep Compression (arXiv 1510.00149, table 4) has it: name, shape, density, values.
ALEXNET = [
    ("conv1", (96, 3, 11, 11), 0.84, 255),
    ("conv2", (256, 48, 5, 5), 0.38, 255),
    ("conv3", (384, 256, 3, 3), 0.35, 255),
    ("conv4", (384, 192, 3, 3), 0.37, 255),
    ("conv5", (256, 192, 3, 3), 0.37, 255),
    ("fc6", (4096, 9216), 0.09, 31),
    ("fc7", (4096, 4096), 0.09, 31),
    ("fc8", (1000, 4096), 0.25, 31),
]


def make_layer(
    shape: tuple[int, ...], density: float, values: int, seed: int
) -> tuple[CompressedTensor, np.ndarray]:
    """A pruned layer with shared weights, and its dense float32 tensor."""
    generator = np.random.default_rng(seed)
    kept = generator.random(shape, dtype=np.float32) < density
    # What is left of a normal distribution once the small weights are pruned.
    half = np.linspace(0.5, 2, values // 2)
    shared = np.concatenate([-half[::-1], [0.51], half * 1.05])[: values or 1]
    codes = generator.integers(1, len(shared) + 1, shape, dtype=np.uint8)
    codes *= kept
    matrix = csr.encode(codes.reshape(shape[0], -1), 4)
    layer = CompressedTensor(shape, "shared_fp32", matrix, np.sort(shared).astype(np.float32))
    return layer, layer.codebook()[codes]


def make_inputs(shape: Shape, batch: int, seed: int) -> np.ndarray:
    """Activations: normal, or after a ReLU where a part of them is not active."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(batch, shape.inputs)).astype(np.float32)
    if shape.active < 1:
        x = np.abs(x) * (generator.random(x.shape) < shape.active).astype(np.float32)
    return x
