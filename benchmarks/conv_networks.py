"""Convolutional networks with BatchNorm folded away, of the published shapes and random weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


def make_weight(shape: tuple[int, ...], density: float, values: int) -> torch.Tensor:
    """Normal weights of which the largest are kept, clustered into ``values`` entries."""
    generator = np.random.default_rng(1)
    scale = np.float32(np.sqrt(2 / max(1.0, density * np.prod(shape[1:]))))
    weight = generator.normal(size=shape).astype(np.float32)
    kept = np.abs(weight) >= np.quantile(np.abs(weight), 1 - density)
    centers = np.quantile(weight[kept], np.linspace(0.01, 0.99, values)).astype(np.float32)
    nearest = centers[np.searchsorted((centers[1:] + centers[:-1]) / 2, weight)]
    return torch.from_numpy(np.where(kept, nearest, np.float32(0)) * scale)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size but for its stride."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)


class Bottleneck(nn.Module):
    """Of ResNet-50."""

    def __init__(self, inputs: int, middle: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * middle
        self.body = nn.Sequential(
            conv(inputs, middle, 1),
            nn.ReLU(),
            conv(middle, middle, 3, stride),
            nn.ReLU(),
            conv(middle, outputs, 1),
        )
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else conv(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.skip(x))


class Inverted(nn.Module):
    """An inverted residual of MobileNetV2 and EfficientNet-Lite."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        middle = inputs * expansion
        widen = [conv(inputs, middle, 1), nn.ReLU6()] if expansion > 1 else []
        self.body = nn.Sequential(
            *widen,
            conv(middle, middle, kernel, stride, middle),
            nn.ReLU6(),
            conv(middle, outputs, 1),
        )
        self.adds = inputs == outputs and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.adds else self.body(x)


def classifier(channels: int, classes: int = 1000) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def alexnet() -> nn.Sequential:
    """Krizhevsky et al. 2012, with its two groups."""
    return nn.Sequential(
        nn.Conv2d(3, 96, 11, 4),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 256, 5, padding=2, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        nn.Linear(9216, 4096),
        nn.ReLU(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Linear(4096, 1000),
    )


def vgg16() -> nn.Sequential:
    """Simonyan and Zisserman 2014, configuration D."""
    layers: list[nn.Module] = []
    channels = 3
    for outputs, times in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(times):
            layers += [conv(channels, outputs, 3), nn.ReLU()]
            channels = outputs
        layers.append(nn.MaxPool2d(2))
    head = [nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), *head, nn.Linear(4096, 1000))


def resnet50() -> nn.Sequential:
    """He et al. 2015, with the stride in the 3 x 3 convolution."""
    layers: list[nn.Module] = [conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for middle, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, middle, stride if block == 0 else 1))
            channels = 4 * middle
    return nn.Sequential(*layers, *classifier(channels))


_MOBILENET_V2 = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 32, 3, 2, 3),
    (6, 64, 4, 2, 3),
    (6, 96, 3, 1, 3),
    (6, 160, 3, 2, 3),
    (6, 320, 1, 1, 3),
)
_EFFICIENTNET_LITE0 = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def _inverted(stages: tuple[tuple[int, int, int, int, int], ...]) -> nn.Sequential:
    layers: list[nn.Module] = [conv(3, 32, 3, 2), nn.ReLU6()]
    channels = 32
    for expansion, outputs, blocks, stride, kernel in stages:
        for block in range(blocks):
            step = stride if block == 0 else 1
            layers.append(Inverted(channels, outputs, expansion, kernel, step))
            channels = outputs
    layers += [conv(channels, 1280, 1), nn.ReLU6()]
    return nn.Sequential(*layers, *classifier(1280))


def mobilenet_v2() -> nn.Sequential:
    """Sandler et al. 2018."""
    return _inverted(_MOBILENET_V2)


def efficientnet_lite0() -> nn.Sequential:
    """EfficientNet-B0 (Tan and Le 2019) without squeeze and excitation, with ReLU6."""
    return _inverted(_EFFICIENTNET_LITE0)


def fill(network: nn.Module, density: float | None, values: int) -> nn.Module:
    """Random weights in place, clustered into ``values`` entries; a density of None keeps all."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            shape = tuple(module.weight.shape)
            kept = 1.0 if density is None or shape[1] == 3 else density
            module.weight.data = make_weight(shape, kept, values)
    return network.eval().requires_grad_(False)


# Name: network, side of its images, density, codebook entries.
NETWORKS = {
    "AlexNet": (alexnet, 227, 0.3, 15),
    "VGG-16": (vgg16, 224, 0.3, 15),
    "ResNet-50": (resnet50, 224, 0.3, 15),
    "MobileNetV2": (mobilenet_v2, 224, None, 255),
    "EfficientNet-Lite0": (efficientnet_lite0, 224, None, 255),
}
