"""Bytes of tersor and of NNCodec at equal accuracy, on the same checkpoints of the two LeNets.

    python -m benchmarks.peers.compare_nncodec PYTHON_WITH_NNCODEC [NET...]

Two checkpoints of each network: the dense one, quantised by both without retraining, and the one
that a committed file of the best recipe stands for, pruned and with shared values. NNCodec codes
each at many step sizes (``nncodec_sweep.py``, in an environment of its own, as it pins old
dependencies), tersor at many sizes, from the weights alone and with errors compensated from 1,000
training images without labels; and the dense one uniformly. For both the fewest bytes count at
which the error is no larger than allowed, so both choose on the test set: ``docs/nncodec.json``.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

import tersor
from examples.mnist.dataset import error_percent, load_test, load_train, to_input
from examples.mnist.models import MODELS, dense_model
from tersor.pipeline.compress import decompress_
from tersor.quantizers.uniform import quantize_uniform

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "nncodec"
TABLE = ROOT / "docs" / "nncodec.json"
TEST = load_test()

BIASES = tersor.LayerConfig(codebook_size=63, kind="shared_fp16")
FREE = tersor.LayerConfig(kind="shared_fp16")

# How far the error may rise over the checkpoint's own, in points.
ALLOWED = (0.0, 0.1, 0.3)


Tries = Iterator[tuple[dict[str, Any], nn.Module, tersor.Config, list[torch.Tensor] | None]]


def _uniform(dense: nn.Module) -> Tries:
    """Uniform values, one step for all layers, from coarse to fine."""
    named = dict(dense.named_parameters())
    weights = {n: p.detach().numpy() for n, p in named.items() if n.endswith("weight")}
    largest = max(float(abs(weight).max()) for weight in weights.values())
    kept = tersor.LayerConfig(codebook_size=255, kind="shared_fp16")
    step = 0.25
    while largest < 127 * step:  # values fit a byte
        step /= 2**0.25
        shared = quantize_uniform(weights, step=step, joint=True)
        model = copy.deepcopy(dense)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in shared:
                    parameter.copy_(torch.from_numpy(shared[name].dense()))
        yield {"method": "uniform", "step": step}, model, tersor.Config(kept, kept, BIASES), None


def _budgets(
    model: nn.Module, sizes: tuple[int, int], calibration: list[torch.Tensor] | None
) -> Tries:
    """Ever larger sizes: density, values and codes are chosen by rate."""
    method = "budget" if calibration is None else "calibrated budget"
    size, most = sizes
    while size < most:
        size = round(size * 1.08)
        config = tersor.Config(FREE, FREE, BIASES, target_bytes=size)
        yield {"method": method, "target": size}, copy.deepcopy(model), config, calibration


def _sweep(model: nn.Module, wanted: float, sizes: tuple[int, int]) -> list[dict[str, Any]]:
    """Bytes and errors of ever larger files, until the error is down to what is wanted."""
    results: list[dict[str, Any]] = []
    path = BUILD / "sweep.safetensors"
    images = [to_input(load_train()[0][:1000])]
    for tries in (_uniform(model), _budgets(model, sizes, None), _budgets(model, sizes, images)):
        for settings, changed, config, data in tries:
            try:
                tersor.compress_(changed, config, data=data)
            except ValueError:  # too few bytes for any choice
                continue
            tersor.save(changed, path)
            error = error_percent(decompress_(changed).eval(), *TEST)
            results.append({"bytes": path.stat().st_size, "error": error, **settings})
            print(results[-1], flush=True)
            if error <= wanted:
                break
    return results


def _fewest(results: list[dict[str, Any]], limit: float) -> dict[str, Any]:
    fitting = [r for r in results if r["error"] <= limit + 1e-9]
    return min(fitting, key=lambda r: (r["bytes"], r["error"]), default={})


def _trained(net: str, limit: float) -> dict[str, Any]:
    """The smallest committed file of the network that the dense one was retrained to."""
    rows = json.loads((ROOT / "docs" / "results.json").read_text())
    named = [
        {"bytes": r["file_bytes"], **r}
        for r in rows
        if r["network"] == net and r["method"] != "linear8"
    ]
    best = _fewest(named, limit)
    return {key: best[key] for key in ("bytes", "error", "file") if key in best}


def compare(net: str, name: str, model: nn.Module, python: str) -> Iterator[dict[str, Any]]:
    """The rows of one checkpoint; sweeps that were made already are read from ``build/nncodec``."""
    error = error_percent(model.eval(), *TEST)
    weights = BUILD / f"{net}-{name}.safetensors"
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, weights)
    theirs = weights.with_suffix(".nncodec.json")
    if not theirs.exists():
        command = [python, "-m", "benchmarks.peers.nncodec_sweep"]
        subprocess.run([*command, net, weights, str(error), theirs], check=True, cwd=ROOT)
    ours = weights.with_suffix(".tersor.json")
    if not ours.exists():
        file = ROOT / "examples" / "mnist" / "compressed" / f"{net}-{name}.safetensors"
        if name == "dense":
            found = _sweep(model, error, (20_000, 300_000))
        else:
            size = file.stat().st_size
            found = [{"bytes": size, "error": error}, *_sweep(model, error, (size // 2, size))]
        ours.write_text(json.dumps(found))
    for allowed in ALLOWED:
        limit = round(error + allowed, 2)
        yield {
            "network": net,
            "checkpoint": name,
            "error_of_checkpoint": error,
            "error_allowed": limit,
            "tersor": _fewest(json.loads(ours.read_text()), limit),
            "tersor_retrained": _trained(net, limit) if name == "dense" else None,
            "nncodec": _fewest(json.loads(theirs.read_text()), limit),
        }


def main() -> None:
    """Command line."""
    python, nets = sys.argv[1], sys.argv[2:] or sorted(MODELS)
    BUILD.mkdir(parents=True, exist_ok=True)
    rows = json.loads(TABLE.read_text()) if TABLE.exists() else []
    for net in nets:
        rows = [row for row in rows if row["network"] != net]
        loaded: nn.Module = MODELS[net]()
        tersor.load(ROOT / "examples/mnist/compressed" / f"{net}-best-0.safetensors", loaded)
        for name, model in (("dense", dense_model(net)), ("best-0", decompress_(loaded))):
            for row in compare(net, name, model, python):
                rows.append(row)
                print(row, flush=True)
        TABLE.write_text(json.dumps(sorted(rows, key=lambda r: r["network"]), indent=1) + "\n")


if __name__ == "__main__":
    main()
