"""Every method on ResNet-32: files really written, errors really measured.

    python examples/cifar10/resnet_results.py --data cifar10_jpeg.npz

runs what is missing; ``--check`` evaluates every file again and fails where a row differs, and
``--table`` prints the rows as those of docs/results.md.

A run that was stopped goes on where its last epoch ended. Files stand in ``compressed/``, rows in
``docs/results.json``. Without the data a check says that it was skipped.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from cifar10 import error_percent, find_archive, load
from compress_resnet import METHODS, Recipe, prune, save, share
from resnet import ResNet32

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from rows import ROOT, Row, add_row, differences, linear8, markdown, measure, read_table

HERE = Path(__file__).resolve().parent
DENSE = HERE / "checkpoints" / "resnet-32.safetensors"
NETWORK = "resnet-32"
SEEDS = (0,)

# The methods of Choi et al., at one mask.
PAPERS = Recipe(density=0.17, values=15, prune_epochs=4, share_epochs=1)


def dense_model() -> ResNet32:
    """The dense checkpoint."""
    model = ResNet32()
    model.load_state_dict(load_file(DENSE))
    return model.eval()


class Table:
    """Rows of ResNet-32, with the data that they need."""

    def __init__(self, archive: Path) -> None:
        self.training, self.test = load(archive)

    @functools.cached_property
    def dense_error(self) -> float:
        """Error of the dense checkpoint in per cent."""
        return error_percent(dense_model(), self.test)

    def evaluate(self, method: str, seed: int, path: Path) -> Row:
        """The row that a file gives."""
        return measure(
            (NETWORK, method, seed),
            path,
            ResNet32(),
            self.dense_error,
            lambda model: error_percent(model, self.test),
        )

    def run(self) -> None:
        """Adds the missing rows, one at a time."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for method, seed in [("linear8", 0), *((m, seed) for seed in SEEDS for m in METHODS)]:
            if any((r.method, r.seed) == (method, seed) for r in read_table([NETWORK])):
                continue
            print(f"{NETWORK} {method} {seed}", flush=True)
            path = HERE / "compressed" / f"{NETWORK}-{method}-{seed}.safetensors"
            model = dense_model()
            if method == "linear8":
                linear8(model)
            else:
                model = self._pruned(model.to(device), seed)
                share(model, self.training, method, PAPERS, seed)
            save(model, path)
            row = self.evaluate(method, seed, path)
            print(row, flush=True)
            add_row(row)

    def _pruned(self, model: ResNet32, seed: int) -> ResNet32:
        """The network that the methods of a seed have in common."""
        state = ROOT / "build" / f"{NETWORK}-pruned-{PAPERS.density:g}-{seed}.pt"
        state.parent.mkdir(exist_ok=True)
        prune(model, self.training, PAPERS, seed, state)
        return model


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the archive; default: TERSOR_DATA")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    rows = read_table([NETWORK])
    if arguments.table:
        print("\n".join(markdown(rows, len(SEEDS))))
        return 0
    archive = find_archive(arguments.data)
    if archive is None:
        print("skipped, ResNet-32: no archive, give --data or TERSOR_DATA")
        return 0 if arguments.check else 2
    table = Table(archive)
    if not arguments.check:
        table.run()
        return 0
    # Convolutions in other orders turn a few images of 10,000.
    wrong = differences(
        rows, lambda row: table.evaluate(row.method, row.seed, ROOT / row.file), near=0.05
    )
    print("\n".join(wrong) or f"{len(rows)} rows of ResNet-32 are what their files give")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
