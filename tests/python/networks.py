"""A small model for the tests of the torch side."""

from __future__ import annotations

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


class LanguageModel(nn.Module):
    """An embedding whose table is also the weight of the last layer."""

    def __init__(self, words: int = 300) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, WIDTH)
        self.fc = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, words, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(F.relu(self.fc(self.embedding(words))))
        return logits


def two_linears(*, tied: bool = False, bias: bool = True) -> nn.Sequential:
    """Linear, ReLU, Linear; the same each time, on the meta device without values."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(WIDTH, WIDTH, bias=bias), nn.ReLU(), nn.Linear(WIDTH, WIDTH, bias=bias)
    )
    if tied:
        model[2].weight = model[0].weight
    return model.eval()


def vectors() -> torch.Tensor:
    """Its input, the same each time."""
    return torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))


def words() -> torch.Tensor:
    """Input of the language model, the same each time."""
    return torch.randint(0, 300, (16, 12), generator=torch.Generator().manual_seed(1))


def bytes_of(model: nn.Module) -> dict[str, bytes]:
    """All of a model's state, for comparing bit by bit."""
    return {
        name: value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name, value in model.state_dict().items()
    }
