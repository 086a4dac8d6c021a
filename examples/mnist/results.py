"""Every method on both LeNets, three seeds each: files really written, errors really measured.

    python -m examples.mnist.results            run what is missing in docs/results.json
    python -m examples.mnist.results --check    evaluate every file again, fail where a row differs
    python -m examples.mnist.results --table    the rows as the table of docs/results.md

A run that was stopped resumes where its last epoch ended. Files stand in ``compressed/``.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path

from examples.mnist.compress_lenet import LeNetTrainer, recipe_of
from examples.mnist.dataset import error_percent, load_test
from examples.mnist.models import MODELS, dense_model
from examples.rows import (
    ROOT,
    Row,
    check,
    linear8,
    markdown,
    measure,
    read_table,
    results_parser,
    run_missing,
    save_quantized,
)
from tersor.quantizers.equal_error import QUANTIZERS
from tersor.training.learning_rates import CosineRate

show = functools.partial(print, flush=True)  # a line an epoch
HERE = Path(__file__).resolve().parent
SEEDS = (0, 1, 2)

# The methods of Choi et al., at one mask for each seed, one codebook over all layers.
PAPERS = {
    "lenet-300-100": recipe_of(prune_epochs=8, codebook_epochs=4, density=0.044),
    "lenet-5": recipe_of(prune_epochs=4, codebook_epochs=1, density=0.03, initial_density=0.3),
}
# Recipes of their own, with a mask of their own.
RECIPES = {
    "best": {
        "lenet-300-100": recipe_of(
            prune_epochs=18, codebook_epochs=8, density=0.012, bias_codebook_size=7
        ),
        "lenet-5": recipe_of(
            prune_epochs=6,
            codebook_epochs=2,
            density=0.01,
            bias_codebook_size=7,
            initial_density=0.3,
        ),
    },
    # From the best recipe's files on: iterative pruning, as in Han et al. 2015 (section 3.3).
    "smaller": {
        "lenet-300-100": recipe_of(
            prune_epochs=3,
            codebook_epochs=2,
            density=0.0112,
            bias_codebook_size=7,
            initial_density=0.012,
            start="lenet-300-100-best-{}.safetensors",
            prune_rate=CosineRate(1e-3, warmup=0.05, overlap=True),
            redraw=4,
            teacher="lenet-5",
        ),
        "lenet-5": recipe_of(
            prune_epochs=12,
            codebook_epochs=6,
            density=0.0086,
            codebook_size=8,
            bias_codebook_size=5,
            initial_density=0.01,
            start="lenet-5-best-{}.safetensors",
            redraw=2,
            bfloat16=True,
        ),
    },
    # And those further, longer, and with smaller codebooks.
    "smallest": {
        "lenet-300-100": recipe_of(
            prune_epochs=24,
            codebook_epochs=8,
            density=0.0086,
            codebook_size=8,
            bias_codebook_size=5,
            initial_density=0.0112,
            start="lenet-300-100-smaller-{}.safetensors",
            redraw=4,
            teacher="lenet-5",
        ),
        "lenet-5": recipe_of(
            prune_epochs=22,
            codebook_epochs=8,
            density=0.004,
            codebook_size=8,
            bias_codebook_size=5,
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


def _make(net: str, method: str, seed: int) -> Path:
    """Runs one method and writes its file; a seed's methods share one pruned network."""
    path = HERE / "compressed" / f"{net}-{method}-{seed}.safetensors"
    if method == "linear8":
        model = dense_model(net)
        linear8(model)
        save_quantized(model, path)
        return path
    own = method in RECIPES  # prunes by itself
    recipe = RECIPES[method][net] if own else dataclasses.replace(PAPERS[net], quantizer=method)
    state = ROOT / "build" / "training" / f"{net}-{method if own else 'papers'}-{seed}.pt"
    trainer = LeNetTrainer(net, recipe, seed, state=state, progress=show)
    trainer.prune()
    trainer.state = state.with_name(f"{net}-{method}-{seed}.pt")
    trainer.train_quantized(trainer.quantize())
    save_quantized(trainer.model.cpu(), path, biases=recipe.bias_codebook_size is not None)
    return path


def run(nets: list[str]) -> None:
    """Adds the missing rows to the table, one at a time."""
    for net in nets:
        wanted = [(net, "linear8", 0)]
        wanted += [(net, name, seed) for name, of in RECIPES.items() if net in of for seed in SEEDS]
        wanted += [(net, method, seed) for seed in SEEDS for method in QUANTIZERS]
        run_missing(wanted, _make, evaluate)


def main() -> int:
    """Command line."""
    parser = results_parser(__doc__)
    parser.add_argument("--net", choices=sorted(MODELS), action="append", help="default: both")
    arguments = parser.parse_args()
    rows = read_table(MODELS)
    if arguments.table:
        print(*markdown(rows, len(SEEDS)), sep="\n")
        return 0
    if arguments.check:
        return check(rows, evaluate, near=0.02)
    run(arguments.net or sorted(MODELS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
