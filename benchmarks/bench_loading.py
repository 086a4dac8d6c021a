"""Loading a model from its compressed file, against torch loading the dense checkpoint.

    python -m benchmarks.bench_loading [--rounds 7] [--json build/bench/loading.json]

Layers of AlexNet's shapes and densities (benchmarks/spmm_layers.py) are written twice, compressed
and as ``torch.save`` writes a state. Each file is loaded into a model on the meta device, which is
built outside the measured time, from a warm page cache and in turns: a busy machine slows all of
them. ``tersor.load_model`` packs a layer when it first runs, so that loading and packing is a row
of its own. Before anything is measured, the outputs of every loaded layer are compared with those
of the dense one.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

import tersor
from benchmarks.spmm_layers import ALEXNET, make_layer
from tersor.codec.blob import SUFFIX, encode_blob
from tersor.io.container import Tensor, write_file
from tersor.nn import Compressed

LayerShape = tuple[str, tuple[int, ...], float, int]  # name, shape, density, codebook entries

MAX_ERROR = 1e-4  # of a layer's outputs, as a share of their norm; 24-bit activations give 1e-6


def make_model(layers: Sequence[LayerShape]) -> nn.ModuleDict:
    """The layers side by side: Linear or Conv2d, by the shapes of their weights."""
    made: dict[str, nn.Module] = {}
    for name, shape, _, _ in layers:
        if len(shape) == 2:
            made[name] = nn.Linear(shape[1], shape[0])
        else:
            made[name] = nn.Conv2d(shape[1], shape[0], (shape[2], shape[3]))
    return nn.ModuleDict(made).eval()


def on_meta(layers: Sequence[LayerShape]) -> nn.ModuleDict:
    """The same without any data."""
    with torch.device("meta"):
        return make_model(layers)


def write_files(layers: Sequence[LayerShape], small: Path, dense: Path) -> None:
    """Writes the compressed file and the dense checkpoint of the same weights."""
    tensors: dict[str, Tensor] = {}
    state: dict[str, torch.Tensor] = {}
    for seed, (name, shape, density, values) in enumerate(layers):
        layer, weight = make_layer(shape, density, values, seed)
        bias = np.random.default_rng(seed).standard_normal(shape[0], np.float32)
        blob = encode_blob(layer)
        tensors[f"{name}.weight{SUFFIX}"] = Tensor("U8", blob.shape, blob)
        tensors[f"{name}.bias"] = Tensor("F32", bias.shape, bias)
        state[f"{name}.weight"] = torch.from_numpy(weight)
        state[f"{name}.bias"] = torch.from_numpy(bias)
    write_file(small, tensors)
    torch.save(state, dense)


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The dense checkpoint, copied into memory."""
    state: dict[str, torch.Tensor] = torch.load(path, mmap=False, weights_only=True)
    return state


@torch.inference_mode()
def verify(model: nn.ModuleDict, state: dict[str, torch.Tensor]) -> None:
    """Compares the outputs of every layer with those of the dense one.

    Raises:
        AssertionError: a layer runs dense, or its outputs are not those; the message names it.
    """
    generator = torch.Generator().manual_seed(0)
    for name, layer in model.items():
        assert isinstance(layer, Compressed), f"{name} runs dense"
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        if weight.dim() == 2:
            x = torch.randn(3, weight.shape[1], generator=generator)
            expected = nn.functional.linear(x, weight, bias)
        else:
            x = torch.randn(1, weight.shape[1], 13, 13, generator=generator)
            expected = nn.functional.conv2d(x, weight, bias)
        error = float((layer(x) - expected).norm() / expected.norm())
        assert error < MAX_ERROR, f"{name}: outputs are {error:.1e} off"


def pack(model: nn.Module) -> None:
    """Packs all layers, as their first calls would."""
    for layer in model.modules():
        if isinstance(layer, Compressed):
            assert layer.packed is not None


def measure(layers: Sequence[LayerShape], rounds: int, folder: Path) -> dict[str, Any]:
    """Writes both files into a folder, verifies what is loaded, and measures in turns.

    Returns:
        ``rounds``, ``threads``, bytes of the two files, and milliseconds (``min``, ``median``) by
        what was done.
    """
    small, dense = folder / "model.safetensors", folder / "model.pt"
    write_files(layers, small, dense)
    loaded = tersor.load_model(small, on_meta(layers))
    assert isinstance(loaded, nn.ModuleDict)
    verify(loaded, read_state(dense))

    def load_and_pack(model: nn.Module) -> None:
        pack(tersor.load_model(small, model))

    contestants: dict[str, Callable[[nn.Module], object]] = {
        "torch.load(mmap=False)": lambda _: read_state(dense),
        "torch.load(mmap=False), load_state_dict(assign=True)": lambda model: model.load_state_dict(
            read_state(dense), assign=True
        ),
        "tersor.load_model": lambda model: tersor.load_model(small, model),
        "tersor.load_model, all layers packed": load_and_pack,
    }
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, load in contestants.items():
            model = on_meta(layers)
            started = time.perf_counter()
            load(model)
            taken[name].append(1000 * (time.perf_counter() - started))
    return {
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "file_bytes": {"tersor": os.path.getsize(small), "torch": os.path.getsize(dense)},
        "ms": {name: {"min": min(ms), "median": median(ms)} for name, ms in taken.items()},
    }


def main() -> None:
    """Measures AlexNet's shapes, prints a table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, default=Path("build/bench/loading.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(ALEXNET, arguments.rounds, Path(folder))
    for name, size in found["file_bytes"].items():
        print(f"{name}: {size / 1e6:.1f} MB")
    for name, ms in found["ms"].items():
        print(f"{name}: {ms['min']:.1f} ms (median {ms['median']:.1f})")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
