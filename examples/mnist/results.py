"""Every method on both LeNets, three seeds each: files really written, errors really measured.

    python examples/mnist/results.py            run what is missing in docs/results.json
    python examples/mnist/results.py --check    evaluate every file again, fail where a row differs
    python examples/mnist/results.py --table    the rows as the table of docs/results.md

A run that was stopped goes on with the first missing row. Files stand in ``compressed/``.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

import tersor
from compress_lenet import METHODS, Recipe, Training
from mnist import error_percent, load_test
from models import MODELS, dense_model
from tersor.methods import share_uniform
from tersor.report import report

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TABLE = ROOT / "docs" / "results.json"
SEEDS = (0, 1, 2)

# The methods of Choi et al., at one mask for each seed, one problem for all layers.
PAPERS = {
    "lenet-300-100": Recipe(8, 4, 0.05, values=15, layerwise=False),
    "lenet-5": Recipe(4, 1, 0.03, values=15, layerwise=False, initial_density=0.3),
}
# Recipes of their own, with a mask of their own.
RECIPES = {
    "best": {
        "lenet-300-100": Recipe(18, 8, 0.012, bias_values=7),
        "lenet-5": Recipe(6, 2, 0.01, bias_values=7, initial_density=0.3),
    },
    # From the best recipe's files on: iterative pruning, as in Han et al. 2015 (section 3.3).
    "smaller": {
        "lenet-300-100": Recipe(
            3,
            2,
            0.0112,
            bias_values=7,
            initial_density=0.012,
            start="lenet-300-100-best-{}.safetensors",
            learning_rate=1e-3,
            redraw=4,
            teacher="lenet-5",
        ),
    },
}


@dataclass(frozen=True)
class Row:
    """A row of the table: errors in per cent of the 10,000 test images, ratios to dense fp32."""

    network: str
    method: str
    seed: int
    ratio_paper: float
    ratio_file: float
    file_bytes: int
    error_dense: float
    error: float
    file: str


test_set = functools.cache(load_test)


@functools.cache
def dense_error(net: str) -> float:
    """Error of the dense checkpoint in per cent."""
    return error_percent(dense_model(net).eval(), *test_set())


def evaluate(net: str, method: str, seed: int, path: Path) -> Row:
    """The row that a file gives, from nothing but its bytes and the dense checkpoint."""
    model: nn.Module = MODELS[net]()
    tersor.load(path, model)
    with tersor.open(path) as file:
        totals = report(file, verify=True).totals
    return Row(
        network=net,
        method=method,
        seed=seed,
        ratio_paper=round(totals.ratio_paper, 2),
        ratio_file=round(totals.ratio_file, 2),
        file_bytes=totals.file_bytes,
        error_dense=dense_error(net),
        error=error_percent(model.eval(), *test_set()),
        file=str(path.relative_to(ROOT)),
    )


def _save(model: nn.Module, path: Path, biases: bool) -> None:
    # The values are shared already: whatever number holds them changes nothing but fp16's rounding.
    shared = tersor.LayerConfig(values=255, kind="shared_fp16")
    config = tersor.Config(linear=shared, conv=shared, biases=shared if biases else None)
    tersor.compress_(model, config)
    path.parent.mkdir(exist_ok=True)
    tersor.save(model, path)


def _linear8(net: str) -> nn.Module:
    """8-bit linear quantisation without pruning or retraining, the baseline of every table."""
    model = dense_model(net)
    weights = {n: p for n, p in model.named_parameters() if n.endswith("weight")}
    shared = share_uniform({n: p.detach().numpy() for n, p in weights.items()}, 255)
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(torch.from_numpy(shared[name].dense()))
    return model


def _make(net: str, method: str, seed: int, path: Path, pruned: Path) -> None:
    """Runs one method and writes its file; the pruned network is kept for the seed's others."""

    def progress(step: object) -> None:
        print(f"{net} {method} {seed}: {step}", flush=True)

    if method == "linear8":
        _save(_linear8(net), path, biases=False)
        return
    own = method in RECIPES  # prunes by itself
    recipe = RECIPES[method][net] if own else dataclasses.replace(PAPERS[net], method=method)
    training = Training(net, recipe, seed, progress)
    if not own and pruned.exists():
        training.model.load_state_dict(torch.load(pruned, weights_only=True))
        training.masks.set({name: w != 0 for name, w in training.weights.items()})
    else:
        training.prune()
        if not own:
            torch.save(training.model.state_dict(), pruned.with_suffix(".new"))
            os.replace(pruned.with_suffix(".new"), pruned)
    training.share()
    _save(training.model, path, biases=recipe.bias_values is not None)


def run(nets: list[str]) -> None:
    """Adds the missing rows to the table, one at a time."""
    for net in nets:
        wanted = [("linear8", 0)]
        wanted += [(name, seed) for name, of in RECIPES.items() if net in of for seed in SEEDS]
        wanted += [(method, seed) for seed in SEEDS for method in METHODS]
        for method, seed in wanted:
            rows = read_table()
            if any((r.network, r.method, r.seed) == (net, method, seed) for r in rows):
                continue
            path = HERE / "compressed" / f"{net}-{method}-{seed}.safetensors"
            state = ROOT / "build" / f"{net}-pruned-{seed}.pt"
            state.parent.mkdir(exist_ok=True)
            _make(net, method, seed, path, state)
            row = evaluate(net, method, seed, path)
            print(row, flush=True)
            write_table([*read_table(), row])


def read_table() -> list[Row]:
    """The committed rows."""
    return [Row(**row) for row in json.loads(TABLE.read_text())] if TABLE.exists() else []


def write_table(rows: list[Row]) -> None:
    """Replaces the table in one step."""
    rows = sorted(rows, key=lambda row: (row.network, row.method, row.seed))
    new = TABLE.with_suffix(".new")
    new.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    os.replace(new, TABLE)


def check() -> list[str]:
    """What differs between the rows and their files, a line each."""
    differences = []
    for row in read_table():
        got = evaluate(row.network, row.method, row.seed, ROOT / row.file)
        # Other processors sum in another order, which may turn single images.
        same = dataclasses.replace(got, error=row.error, error_dense=row.error_dense) == row
        near = abs(got.error - row.error) <= 0.02 and abs(got.error_dense - row.error_dense) <= 0.02
        if not (same and near):
            differences.append(f"{row.file}: the table has {row}, the file gives {got}")
    return differences


def markdown() -> Iterator[str]:
    """A line for each network and method: means over the seeds, the worst in brackets."""
    by_method: dict[tuple[str, str], list[Row]] = {}
    for row in read_table():
        by_method.setdefault((row.network, row.method), []).append(row)
    for (net, method), rows in by_method.items():
        ratios, errors = [r.ratio_file for r in rows], [r.error for r in rows]
        with tersor.open(ROOT / rows[0].file) as file:
            kept = report(file).totals.density
        several = len(rows) > 1
        complete = method == "linear8" or len(rows) == len(SEEDS)
        cells = [
            net.replace("lenet", "LeNet"),
            method + ("" if complete else f", {len(rows)} of {len(SEEDS)} seeds"),
            f"{100 * kept:.1f} %",
            f"{statistics.mean(ratios):.1f}×" + (f" ({min(ratios):.1f}×)" if several else ""),
            f"{statistics.mean(r.ratio_paper for r in rows):.1f}×",
            f"{statistics.mean(r.file_bytes for r in rows):,.0f}",
            f"{rows[0].error_dense:.2f} → {statistics.mean(errors):.2f}"
            + (f" ({max(errors):.2f})" if several else "")
            + " %",
        ]
        yield f"| {' | '.join(cells)} |"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--net", choices=sorted(MODELS), action="append")
    arguments = parser.parse_args()
    if arguments.table:
        print("\n".join(markdown()))
        return 0
    if not arguments.check:
        run(arguments.net or sorted(MODELS))
        return 0
    differences = check()
    print("\n".join(differences) or f"{len(read_table())} rows are what their files give")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
