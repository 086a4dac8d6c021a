"""The two networks of Deep Compression's MNIST tables, as plain torch modules."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn


class LeNet300100(nn.Module):
    """Fully connected 784-300-100-10: 266,610 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.ip1 = nn.Linear(784, 300)
        self.ip2 = nn.Linear(300, 100)
        self.ip3 = nn.Linear(100, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images ``[n, 1, 28, 28]`` to class scores ``[n, 10]``."""
        x = F.relu(self.ip1(x.flatten(1)))
        x = F.relu(self.ip2(x))
        scores: torch.Tensor = self.ip3(x)
        return scores

    def hidden_pairs(self) -> list[tuple[nn.Linear, nn.Linear]]:
        """The layers on both sides of each hidden one."""
        return [(self.ip1, self.ip2), (self.ip2, self.ip3)]


class LeNet5(nn.Module):
    """Caffe's LeNet-5: 431,080 parameters; with a ReLU after each pooling, which Caffe lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.ip1 = nn.Linear(800, 500)
        self.ip2 = nn.Linear(500, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images ``[n, 1, 28, 28]`` to class scores ``[n, 10]``."""
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = F.relu(self.ip1(x.flatten(1)))
        scores: torch.Tensor = self.ip2(x)
        return scores

    def hidden_pairs(self) -> list[tuple[nn.Conv2d | nn.Linear, nn.Conv2d | nn.Linear]]:
        """The layers on both sides of each hidden one."""
        return [(self.conv1, self.conv2), (self.conv2, self.ip1), (self.ip1, self.ip2)]


MODELS: dict[str, type[LeNet300100] | type[LeNet5]] = {
    "lenet-300-100": LeNet300100,
    "lenet-5": LeNet5,
}


def dense_model(net: str) -> LeNet300100 | LeNet5:
    """The dense checkpoint of a network, by its name in :data:`MODELS`."""
    model = MODELS[net]()
    model.load_state_dict(load_file(Path(__file__).parent / "checkpoints" / f"{net}.safetensors"))
    return model
