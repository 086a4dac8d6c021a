"""What the documents speak of: the reader's network, data, measure and loop, small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

import tersor
from tersor.io import container
from tersor.io.container import Tensor


class MyNetwork(nn.Module):
    """Stands for the reader's network: images ``[n, 1, 16, 16]`` to 10 scores."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())
        self.body = nn.Linear(4 * 14 * 14, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.relu(self.body(self.encoder(x))))
        return out


def accuracy_in_percent(model: nn.Module) -> float:
    """Stands for the reader's measure: how often the first class is not chosen."""
    torch.manual_seed(2)
    with torch.inference_mode():
        chosen = model(torch.randn(64, 1, 16, 16)).argmax(1)
    return 100.0 * float((chosen != 0).float().mean())


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Stands for the reader's loop."""
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(8, 1, 16, 16)
        nn.functional.mse_loss(model(x), x.mean((1, 2, 3))[:, None].expand(8, 10)).backward()
        optimizer.step()


def names() -> dict[str, Any]:
    """What the text around the blocks speaks of."""
    torch.manual_seed(1)
    model = MyNetwork().eval()
    return {
        "MyNetwork": MyNetwork,
        "accuracy_in_percent": accuracy_in_percent,
        "inputs": torch.randn(128, 1, 16, 16),
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters()),
        "tersor": tersor,
        "train": train,
        "x": torch.randn(1, 1, 16, 16),
    }


def write_bert(folder: Path) -> None:
    """A tiny model of transformers, with random weights."""
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    config = transformers.BertConfig(**shape, num_hidden_layers=2, vocab_size=300)
    transformers.BertModel(config).save_pretrained(folder)


def write_files(folder: Path) -> None:
    """The files that commands name: ``model.safetensors``, and ``checkpoint/`` with another."""
    generator = np.random.default_rng(1)
    (folder / "checkpoint").mkdir()
    for file, rows in ((folder, 256), (folder / "checkpoint", 64)):
        tensors = {}
        for name in ("body", "head"):
            weight = generator.normal(size=(rows, 64)).astype(np.float32)
            tensors[f"{name}.weight"] = Tensor("F32", weight.shape, weight)
        container.write_file(file / "model.safetensors", tensors, plain=True)
