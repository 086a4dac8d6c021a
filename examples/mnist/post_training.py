"""Compression of the dense LeNets from a few images without labels or retraining.

    python -m examples.mnist.post_training

First at given densities and numbers of values: plain (magnitude and k-means) and with errors
compensated from 128 images, ``compress_(data=...)``. Then to given ratios,
``Config(target_ratio=...)``: from the weights alone, with the Hessian's diagonal from 1,000 images,
and with errors compensated from these.
"""

from __future__ import annotations

from typing import Any

import tersor
from examples.mnist.dataset import error_percent, load_test, load_train, to_input
from examples.mnist.models import MODELS, dense_model
from examples.mnist.presets import measure
from tersor.calibration.sensitivity import hessian_diagonal

# Density and shared values of matrices and of filters.
SETTINGS = ((1.0, 7, 1.0, 15), (0.5, 15, 0.5, 15), (0.3, 15, 0.5, 15), (0.2, 15, 0.5, 15))
IMAGES = 128
RATIOS = (10, 16, 24, 40)


def compress(net: str, config: tersor.Config, **given: Any) -> str:
    """What one way to compress gives."""
    size, error, seconds = measure(net, config, **given)
    return f"{size:7,} bytes, {error:5.2f} %, {seconds:4.1f} s"


def main() -> None:
    """Prints a line for each network and setting."""
    images = to_input(load_train()[0][:1000])
    for net in sorted(MODELS):
        print(f"{net}: dense {error_percent(dense_model(net).eval(), *load_test()):.2f} %")
        for settings in SETTINGS:
            density, values, conv_density, conv_values = settings
            plain = tersor.Config(
                linear=tersor.LayerConfig(density=density, codebook_size=values),
                conv=tersor.LayerConfig(density=conv_density, codebook_size=conv_values),
            )
            few = [images[:IMAGES]]
            print(
                f"  matrices {density:.0%}, {values:2} values; filters {conv_density:.0%}, "
                f"{conv_values}:  plain {compress(net, plain)};  "
                f"compensated {compress(net, plain, data=few)}",
                flush=True,
            )
        hessian = hessian_diagonal(dense_model(net), images.split(250))
        for ratio in RATIOS:
            target = tersor.Config(target_ratio=ratio)
            print(
                f"  ratio {ratio}:  relative error {compress(net, target)};  "
                f"Hessian {compress(net, target, importance=hessian)};  "
                f"compensated {compress(net, target, data=[images])}",
                flush=True,
            )


if __name__ == "__main__":
    main()
