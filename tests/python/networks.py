"""Small models for the tests of the torch side."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

# Wide enough that the compressed weights are smaller than the dense ones.
WIDTH = 64


class Net(nn.Module):
    """A convolution, and a Linear that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, WIDTH, 3, stride=2, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.fc = nn.Linear(WIDTH, WIDTH)
        self.again = self.fc

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.again(F.relu(self.fc(x)))


def net() -> Net:
    """The model, the same each time."""
    torch.manual_seed(0)
    return Net().eval()


def images() -> torch.Tensor:
    """Its input, the same each time."""
    return torch.randn(3, 2, 9, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether two models agree on it."""
    return torch.allclose(a(images()), b(images()), atol=1e-5)


def linear(**options: Any) -> nn.Linear:
    """A layer, the same each time."""
    torch.manual_seed(0)
    return nn.Linear(WIDTH, WIDTH, **options)


def conv(**options: Any) -> nn.Conv2d:
    """A convolution, the same each time."""
    torch.manual_seed(0)
    return nn.Conv2d(8, WIDTH, 3, groups=2, **options)


def rows() -> torch.Tensor:
    """Inputs of the layer, the same each time."""
    return torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))


def maps() -> torch.Tensor:
    """Inputs of the convolution, the same each time."""
    return torch.randn(3, 8, 9, 8, generator=torch.Generator().manual_seed(1))


# By name: a layer and inputs of it.
LAYERS: dict[str, Any] = {"linear": (linear, rows), "conv": (conv, maps)}


class Tagged(nn.Linear):
    """A subclass that keeps ``forward`` and has state of its own."""

    def __init__(self, inputs: int = WIDTH, outputs: int = WIDTH) -> None:
        super().__init__(inputs, outputs)
        self.tag = "first"
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("cache", torch.zeros(2), persistent=False)
        self.norm = nn.LayerNorm(4)

    def get_extra_state(self) -> torch.Tensor:
        return torch.tensor(list(self.tag.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.tag = bytes(state.tolist()).decode()


class Doubled(nn.Linear):
    """A subclass that overrides ``forward``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Patches(nn.Module):
    """Embeds patches of images as vision transformers do: in the dtype of the filters."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4, bias=False)
        self.first = nn.Parameter(torch.randn(32))
        self.norm = nn.LayerNorm(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.patch(x.to(self.patch.weight.dtype)).flatten(2).mT
        return self.norm(torch.cat([self.first.expand(len(x), 1, -1), patches], 1))
