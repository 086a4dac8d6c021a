"""One-shot compression of pretrained networks from unlabelled inputs, at several ratios.

    TERSOR_DATA=FOLDER python -m benchmarks.bench_calibration [--docs docs/results.md]

Bytes are those of the files, with everything in them; qualities are on inputs that the calibration
did not have. Peers are GPTQ by its formula (``benchmarks/gptq.py``) and the dense network. Results
go to ``build/bench/calibration.json``, each as soon as it is known; what is there already is not
measured again unless ``--again`` is given.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

import tersor
from benchmarks.calibration_networks import (
    Network,
    agreement,
    mean_cosine,
    networks,
    outputs,
)
from benchmarks.gptq import gptq_
from examples.cifar10 import dataset as cifar10
from examples.cifar10.resnet import ResNet32, fold_norms_
from examples.mnist import dataset as mnist
from examples.mnist.models import dense_model as dense_lenet

OUTPUT = Path("build/bench/calibration.json")
RATIOS = (8, 12, 16)
START, END = "<!-- calibration -->", "<!-- /calibration -->"
Row = dict[str, Any]


def _dense_bytes(model: nn.Module) -> int:
    return sum(4 * parameter.numel() for parameter in model.parameters())


def _file_bytes(model: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        tersor.save(model, path)
        return path.stat().st_size


def _quality(network: Network, model: nn.Module) -> dict[str, float]:
    """Of a model, against the dense one: by measure and domain."""
    found = {}
    for domain, batches in network.tests.items():
        made, dense = outputs(model, batches), outputs(network.model, batches)
        found[f"cosine, {domain}"] = mean_cosine(made, dense)
        if network.name.startswith("Efficient"):
            found["agreement"] = agreement(made, dense)
    return found


def pretrained(network: Network, method: str, value: float) -> Row:
    """A network by a method: ``tersor`` at a ratio, or ``gptq`` at a number of bits."""
    model = copy.deepcopy(network.model)
    tries: list[str] = []
    started = time.perf_counter()
    if method == "gptq":
        size = gptq_(model, network.calibration, int(value))
    else:
        config = tersor.Config(target_ratio=value)
        tersor.compress_(model, config, data=network.calibration, progress=tries.append)
        size = _file_bytes(model)
    seconds = time.perf_counter() - started
    return {
        "bytes": size,
        "ratio": _dense_bytes(network.model) / size,
        "seconds": seconds,
        "tries": sum(line.startswith("try ") for line in tries),
        **_quality(network, model),
    }


def small(
    dense: nn.Module, calibration: list[torch.Tensor], ratio: float, error: Callable[..., float]
) -> Row:
    """A small network of the repository at a ratio, with its error in per cent."""
    model = copy.deepcopy(dense)
    started = time.perf_counter()
    tersor.compress_(model, tersor.Config(target_ratio=ratio), data=calibration)
    seconds = time.perf_counter() - started
    size = _file_bytes(model)
    return {
        "bytes": size,
        "ratio": _dense_bytes(dense) / size,
        "seconds": seconds,
        "error": error(model),
        "dense error": error(dense),
    }


def _small_networks() -> Iterator[tuple[str, float, Callable[[], Row]]]:
    images = mnist.to_input(mnist.load_train()[0][:1000])
    for name in ("lenet-300-100", "lenet-5"):
        model = dense_lenet(name).eval()
        yield (
            name,
            40,
            lambda m=model: small(  # type: ignore[misc]
                m, [images], 40, lambda n: mnist.error_percent(n, *mnist.load_test())
            ),
        )
    archive = cifar10.find_archive()
    if archive is None:
        raise SystemExit(f"{cifar10.ARCHIVE} is missing: set TERSOR_DATA to the folder that has it")
    train, test = cifar10.load(archive)
    batches = list(cifar10.to_input(train.pixels[:1000]).split(250))
    resnet = ResNet32()
    resnet.load_state_dict(load_file("examples/cifar10/checkpoints/resnet-32.safetensors"))
    folded = fold_norms_(resnet.eval())
    yield (
        "resnet-32",
        8,
        lambda: small(folded, batches, 8, lambda n: cifar10.error_percent(n, test)),
    )


def measured(again: bool) -> dict[str, Row]:
    """All rows by name, those that are known from the file."""
    known: dict[str, Row] = {}
    if OUTPUT.exists() and not again:
        known = json.loads(OUTPUT.read_text())

    def add(name: str, measure: Callable[[], Row]) -> None:
        if name not in known:
            known[name] = measure()
            OUTPUT.parent.mkdir(parents=True, exist_ok=True)
            OUTPUT.write_text(json.dumps(known, indent=2))
        print(name, json.dumps(known[name]), flush=True)

    for network in networks():
        for method, values in (("tersor", RATIOS), ("gptq", (4, 3))):
            for value in values:
                label = f"{value}×" if method == "tersor" else f"{value} bits, groups of 128"
                name = f"{network.name}, {method} {label}"
                add(name, lambda n=network, m=method, v=value: pretrained(n, m, v))  # type: ignore[misc]
    for name, ratio, measure in _small_networks():
        add(f"{name}, tersor {ratio:g}×", measure)
    return known


def table(rows: dict[str, Row]) -> str:
    """The rows for docs/results.md."""
    lines = ["| network, method | bytes | ratio | quality | seconds |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        fixed = ("bytes", "ratio", "seconds", "tries", "dense error")
        quality = ", ".join(
            f"{value:.2f} % error" if key == "error" else f"{key} {value:.4f}"
            for key, value in row.items()
            if key not in fixed
        )
        lines.append(
            f"| {name} | {row['bytes']:,} | {row['ratio']:.2f} | {quality} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures what is not known yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="measure everything anew")
    parser.add_argument("--docs", type=Path, help="page to put the table into")
    options = parser.parse_args()
    made = table(measured(options.again))
    print(made)
    if options.docs:
        before, _, rest = options.docs.read_text().partition(START)
        _, _, after = rest.partition(END)
        options.docs.write_text(f"{before}{START}\n{made}\n{END}{after}")


if __name__ == "__main__":
    main()
