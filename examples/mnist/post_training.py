"""Compression of the dense LeNets from 128 images without labels or retraining, beside plain.

    python examples/mnist/post_training.py

Plain prunes by magnitude and shares by k-means; compensated is ``Config(calibration=...)``.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

import tersor
from mnist import error_percent, load_test, load_train, to_input
from models import MODELS, dense_model

# Density and shared values of matrices and of filters.
SETTINGS = ((1.0, 7, 1.0, 15), (0.5, 15, 0.5, 15), (0.3, 15, 0.5, 15), (0.2, 15, 0.5, 15))
IMAGES = 128


def compress(net: str, settings: tuple[float, int, float, int], images: torch.Tensor | None) -> str:
    """Bytes of the file, test error and seconds of one way to compress."""
    model = dense_model(net).eval()
    linear = tersor.LayerConfig(density=settings[0], values=settings[1])
    conv = tersor.LayerConfig(density=settings[2], values=settings[3])
    started = time.perf_counter()
    calibration = None if images is None else [images]
    tersor.compress_(model, tersor.Config(linear=linear, conv=conv, calibration=calibration))
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        tersor.save(model, path)
        size = path.stat().st_size
    return f"{size:7,} bytes, {error_percent(model, *load_test()):5.2f} %, {seconds:4.1f} s"


def main() -> None:
    """Prints a line for each network and setting."""
    images = to_input(load_train()[0][:IMAGES])
    for net in sorted(MODELS):
        print(f"{net}: dense {error_percent(dense_model(net).eval(), *load_test()):.2f} %")
        for settings in SETTINGS:
            density, values, conv_density, conv_values = settings
            print(
                f"  matrices {density:.0%}, {values:2} values; filters {conv_density:.0%}, "
                f"{conv_values}:  plain {compress(net, settings, None)};  "
                f"compensated {compress(net, settings, images)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
