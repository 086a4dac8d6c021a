"""The presets of ``tersor.Config`` on the dense LeNets: file bytes and test errors, no retraining.

Prints the rows of the table in docs/methods.md: ``python -m examples.mnist.presets``.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

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


def measure(net: str, config: tersor.Config, **given: Any) -> tuple[int, float, float]:
    """Bytes of the file, test error in per cent and seconds of compressing a dense network.

    ``given`` are arguments of :func:`tersor.compress_`.
    """
    model = dense_model(net).eval()
    started = time.perf_counter()
    tersor.compress_(model, config, **given)
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        tersor.save(model, path)
        return path.stat().st_size, error_percent(model, *load_test()), seconds


def main() -> None:
    """Prints a line for each network and preset."""
    data = [to_input(load_train()[0][:1000])]
    for net in sorted(MODELS):
        dense = sum(4 * p.numel() for p in dense_model(net).parameters())
        print(f"{net}: dense {dense:,} bytes")
        for name, config in PRESETS.items():
            given = {"data": data} if name.endswith("data") else {}
            size, error, _ = measure(net, config, **given)
            print(f"  {name}: {size:,} bytes, {dense / size:.1f}x, {error:.2f} %", flush=True)


if __name__ == "__main__":
    main()
