"""The presets of ``tersor.Config`` on the dense LeNets: file bytes and test errors, no retraining.

Prints the rows of the table in docs/methods.md: ``python -m examples.mnist.presets``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import tersor
from examples.mnist.dataset import error_percent, load_test, load_train, to_input
from examples.mnist.models import MODELS, dense_model

PRESETS = {
    "default": tersor.Config(),
    "lossless_codes": tersor.Config.lossless_codes(),
    "balanced": tersor.Config.balanced(),
    "small(8)": tersor.Config.small(8),
    "small(8) with data": tersor.Config.small(8),
    "small(16) with data": tersor.Config.small(16),
}


def measure(net: str, name: str, data: list[torch.Tensor]) -> tuple[int, float]:
    """Bytes of the file and test error in per cent of a network that a preset compressed."""
    model = dense_model(net).eval()
    tersor.compress_(model, PRESETS[name], data=data if name.endswith("data") else None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        tersor.save(model, path)
        size = path.stat().st_size
    return size, error_percent(model, *load_test())


def main() -> None:
    """Prints a line for each network and preset."""
    data = [to_input(load_train()[0][:1000])]
    for net in sorted(MODELS):
        dense = sum(4 * p.numel() for p in dense_model(net).parameters())
        print(f"{net}: dense {dense:,} bytes")
        for name in PRESETS:
            size, error = measure(net, name, data)
            print(f"  {name}: {size:,} bytes, {dense / size:.1f}x, {error:.2f} %", flush=True)


if __name__ == "__main__":
    main()
