"""ResNet-32 for CIFAR-10 (He et al. 2015, arXiv 1512.03385, section 4.2), as Choi et al. use it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from examples.cifar10.dataset import Images, to_input
from tersor.nn.registry import swap_modules
from tersor.training.loop import Forward

# Compiling takes half a minute and saves a fifth of a step on a CPU.
IMAGES_WORTH_COMPILING = 12_800


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (option A of the paper)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.new_channels = outputs - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[n, inputs, h, w]`` to ``[n, outputs, h / stride, w / stride]``."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.new_channels:
            before = self.new_channels // 2
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, before, self.new_channels - before))
        return F.relu(x + y)


class ResNet32(nn.Module):
    """3 stages of 5 blocks with 16, 32 and 64 channels: 464,154 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        stages = []
        inputs = 16
        for outputs in (16, 32, 64):
            blocks = []
            for index in range(5):
                stride = 2 if index == 0 and outputs > 16 else 1
                blocks.append(Block(inputs, outputs, stride))
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images ``[n, 3, 32, 32]`` to class scores ``[n, 10]``."""
        x = self.stages(F.relu(self.bn(self.conv(x))))
        scores: torch.Tensor = self.fc(x.mean((2, 3)))
        return scores


def channels_last(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels to what the network reads, in the order that torch convolves fastest."""
    return to_input(pixels).contiguous(memory_format=torch.channels_last)


def compiled_for(images: Images, model: nn.Module) -> Forward:
    """The model's forward pass, compiled where so many images on a CPU make up for it."""
    device, count = images.labels.device, len(images.labels)
    compiles = device.type == "cpu" and count >= IMAGES_WORTH_COMPILING
    forward: Forward = torch.compile(model) if compiles else model
    return forward


class ScaleShift(nn.Module):
    """What a trained norm computes: a scale (``weight``), a shift (``bias``) for each channel."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[n, channels, h, w]`` to the same."""
        return torch.addcmul(self.bias[:, None, None], x, self.weight[:, None, None])


def fold_norms_(model: nn.Module) -> nn.Module:
    """Puts a scale and a shift in the place of each norm, whose statistics cost bytes."""

    def folded(module: nn.Module, _: str) -> nn.Module | None:
        if not isinstance(module, nn.BatchNorm2d):
            return None
        assert module.running_mean is not None
        assert module.running_var is not None
        weight = module.weight.detach() / (module.running_var + module.eps).sqrt()
        return ScaleShift(weight, module.bias.detach() - module.running_mean * weight)

    swap_modules(model, folded)
    return model
