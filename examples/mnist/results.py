"""Every method on both LeNets, three seeds each: files really written, errors really measured.

    python -m examples.mnist.results            run what is missing in docs/results.json
    python -m examples.mnist.results --check    evaluate every file again, fail where a row differs
    python -m examples.mnist.results --table    the rows as the table of docs/results.md

A run that was stopped goes on with the first missing row. Files stand in ``compressed/``.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import sys
from pathlib import Path

import torch
from torch import nn

import tersor
from examples.mnist.compress_lenet import Recipe, Training
from examples.mnist.dataset import error_percent, load_test
from examples.mnist.models import MODELS, dense_model
from examples.rows import ROOT, Row, add_row, differences, linear8, markdown, measure, read_table
from examples.sharing import METHODS

HERE = Path(__file__).resolve().parent
SEEDS = (0, 1, 2)

# The methods of Choi et al., at one mask for each seed, one problem for all layers.
PAPERS = {
    "lenet-300-100": Recipe(8, 4, 0.044),
    "lenet-5": Recipe(4, 1, 0.03, initial_density=0.3),
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
        "lenet-5": Recipe(
            12,
            6,
            0.0086,
            values=8,
            bias_values=5,
            initial_density=0.01,
            start="lenet-5-best-{}.safetensors",
            redraw=2,
            bfloat16=True,
        ),
    },
    # And those further, longer, and with fewer values.
    "smallest": {
        "lenet-300-100": Recipe(
            24,
            8,
            0.0086,
            values=8,
            bias_values=5,
            initial_density=0.0112,
            start="lenet-300-100-smaller-{}.safetensors",
            redraw=4,
            teacher="lenet-5",
        ),
        "lenet-5": Recipe(
            22,
            8,
            0.004,
            values=8,
            bias_values=5,
            initial_density=0.0086,
            start="lenet-5-smaller-{}.safetensors",
            redraw=2,
            bfloat16=True,
        ),
    },
}


test_set = functools.cache(load_test)


@functools.cache
def dense_error(net: str) -> float:
    """Error of the dense checkpoint in per cent."""
    return error_percent(dense_model(net).eval(), *test_set())


def evaluate(net: str, method: str, seed: int, path: Path) -> Row:
    """The row that a file gives, from nothing but its bytes and the dense checkpoint."""
    return measure(
        (net, method, seed),
        path,
        MODELS[net](),
        dense_error(net),
        lambda model: error_percent(model, *test_set()),
    )


def _save(model: nn.Module, path: Path, biases: bool) -> None:
    # The values are shared already: whatever number holds them changes nothing but fp16's rounding.
    shared = tersor.LayerConfig(codebook_size=255, kind="shared_fp16")
    config = tersor.Config(linear=shared, conv=shared, biases=shared if biases else None)
    tersor.compress_(model, config)
    path.parent.mkdir(exist_ok=True)
    tersor.save(model, path, config=False)


def _make(net: str, method: str, seed: int, path: Path, pruned: Path) -> None:
    """Runs one method and writes its file; the pruned network is kept for the seed's others."""

    def progress(step: object) -> None:
        print(f"{net} {method} {seed}: {step}", flush=True)

    if method == "linear8":
        model = dense_model(net)
        linear8(model)
        _save(model, path, biases=False)
        return
    own = method in RECIPES  # prunes by itself
    recipe = RECIPES[method][net] if own else dataclasses.replace(PAPERS[net], method=method)
    training = Training(net, recipe, seed, progress)
    if not own and pruned.exists():
        saved = torch.load(pruned, map_location=training.device, weights_only=True)
        training.model.load_state_dict(saved)
        training.masks.set({name: w != 0 for name, w in training.weights.items()})
    else:
        training.prune()
        if not own:
            torch.save(training.model.state_dict(), pruned.with_suffix(".new"))
            os.replace(pruned.with_suffix(".new"), pruned)
    training.share()
    _save(training.model.cpu(), path, biases=recipe.bias_values is not None)


def run(nets: list[str]) -> None:
    """Adds the missing rows to the table, one at a time."""
    for net in nets:
        wanted = [("linear8", 0)]
        wanted += [(name, seed) for name, of in RECIPES.items() if net in of for seed in SEEDS]
        wanted += [(method, seed) for seed in SEEDS for method in METHODS]
        for method, seed in wanted:
            if any((r.method, r.seed) == (method, seed) for r in read_table([net])):
                continue
            path = HERE / "compressed" / f"{net}-{method}-{seed}.safetensors"
            state = ROOT / "build" / f"{net}-pruned-{seed}.pt"
            state.parent.mkdir(exist_ok=True)
            _make(net, method, seed, path, state)
            row = evaluate(net, method, seed, path)
            print(row, flush=True)
            add_row(row)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--net", choices=sorted(MODELS), action="append")
    arguments = parser.parse_args()
    if arguments.table:
        print("\n".join(markdown(read_table(MODELS), len(SEEDS))))
        return 0
    if not arguments.check:
        run(arguments.net or sorted(MODELS))
        return 0
    rows = read_table(MODELS)
    wrong = differences(
        rows, lambda r: evaluate(r.network, r.method, r.seed, ROOT / r.file), near=0.02
    )
    print("\n".join(wrong) or f"{len(rows)} rows are what their files give")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
