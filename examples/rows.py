"""The table of results that the examples fill: docs/results.json, a row a file.

Every row can be measured again from its file alone; where a row and its file differ, the check of
the example that made it fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import json
import os
import statistics
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

import tersor
from tersor.quantizers.uniform import quantize_uniform
from tersor.reporting.file_report import report

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "results.json"


@dataclass(frozen=True)
class Row:
    """A row of the table: errors in per cent of the whole test set, ratios to dense fp32."""

    network: str
    method: str
    seed: int
    ratio_paper: float
    ratio_file: float
    file_bytes: int
    error_dense: float
    error: float
    file: str


# The row that a file gives: of network, method, seed and path.
Evaluate = Callable[[str, str, int, Path], Row]


def measure(
    row: tuple[str, str, int],
    path: Path,
    model: nn.Module,
    error_dense: float,
    error_of: Callable[[nn.Module], float],
) -> Row:
    """The row that a file gives.

    Args:
        row: network, method and seed.
        path: of the file, within the repository.
        model: takes what the file holds.
        error_of: of a model on the test set, in per cent.
    """
    tersor.load(path, model)
    with tersor.open(path) as file:
        totals = report(file, verify=True).totals
    network, method, seed = row
    return Row(
        network=network,
        method=method,
        seed=seed,
        ratio_paper=round(totals.ratio_paper, 2),
        ratio_file=round(totals.ratio_file, 2),
        file_bytes=totals.file_bytes,
        error_dense=error_dense,
        error=error_of(model.eval()),
        file=str(path.relative_to(ROOT)),
    )


def read_table(networks: Collection[str]) -> list[Row]:
    """The committed rows of some networks."""
    rows = [Row(**row) for row in json.loads(TABLE.read_text())]
    return [row for row in rows if row.network in networks]


def add_row(row: Row) -> None:
    """Puts a row into the table, in place of one of the same network, method and seed."""
    key = (row.network, row.method, row.seed)
    lock = ROOT / "build" / "results.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # other seeds may run beside this one
        others = [Row(**r) for r in json.loads(TABLE.read_text())]
        others = [r for r in others if (r.network, r.method, r.seed) != key]
        rows = sorted([*others, row], key=lambda r: (r.network, r.method, r.seed))
        new = TABLE.with_suffix(".new")
        new.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
        os.replace(new, TABLE)


def run_missing(
    wanted: Iterable[tuple[str, str, int]],
    make: Callable[[str, str, int], Path],
    evaluate: Evaluate,
) -> None:
    """Makes the missing files, one at a time, and adds their rows to the table."""
    for key in wanted:
        if all((r.network, r.method, r.seed) != key for r in read_table(key[:1])):
            print(*key, flush=True)
            row = evaluate(*key, make(*key))
            print(row, flush=True)
            add_row(row)


def markdown(rows: list[Row], seeds: int) -> Iterator[str]:
    """A line for each network and method: means over the seeds, the worst in brackets.

    Args:
        rows: of the table.
        seeds: that a method is run with; of a method without training one.
    """
    by_method: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_method.setdefault((row.network, row.method), []).append(row)
    for (net, method), some in by_method.items():
        ratios, errors = [r.ratio_file for r in some], [r.error for r in some]
        with tersor.open(ROOT / some[0].file) as file:
            kept = report(file).totals.density
        several = len(some) > 1
        complete = method == "linear8" or len(some) == seeds
        cells = [
            net.replace("lenet", "LeNet").replace("resnet", "ResNet"),
            method + ("" if complete else f", {len(some)} of {seeds} seeds"),
            f"{100 * kept:.1f} %",
            f"{statistics.mean(ratios):.1f}×" + (f" ({min(ratios):.1f}×)" if several else ""),
            f"{statistics.mean(r.ratio_paper for r in some):.1f}×",
            f"{statistics.mean(r.file_bytes for r in some):,.0f}",
            f"{some[0].error_dense:.2f} → {statistics.mean(errors):.2f}"
            + (f" ({max(errors):.2f})" if several else "")
            + " %",
        ]
        yield f"| {' | '.join(cells)} |"


def results_parser(description: str | None) -> argparse.ArgumentParser:
    """The command line of a table of results, to which an example adds what it needs."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="evaluate every file again")
    parser.add_argument("--table", action="store_true", help="print the rows of docs/results.md")
    return parser


def check(rows: list[Row], evaluate: Evaluate, near: float) -> int:
    """Prints what differs between the rows and their files, a line each.

    Args:
        rows: of the table.
        near: how far errors may be off, in per cent: other processors sum in another order, which
            may turn single images.

    Returns:
        The exit status, 1 where something differs.
    """
    wrong = False
    for row in rows:
        got = evaluate(row.network, row.method, row.seed, ROOT / row.file)
        same = dataclasses.replace(got, error=row.error, error_dense=row.error_dense) == row
        off = max(abs(got.error - row.error), abs(got.error_dense - row.error_dense))
        if not same or off > near:
            print(f"{row.file}: the table has {row}, the file gives {got}")
            wrong = True
    if not wrong:
        print(f"{len(rows)} rows are what their files give")
    return int(wrong)


def save_quantized(model: nn.Module, path: Path, biases: bool = False) -> None:
    """Writes a network whose weights, and perhaps biases, are quantized already, in fp16."""
    layer = tersor.LayerConfig(codebook_size=255, kind="shared_fp16")
    config = tersor.Config(linear=layer, conv=layer, biases=layer if biases else None)
    path.parent.mkdir(parents=True, exist_ok=True)
    tersor.save(tersor.compress_(model, config), path, config=False)


def linear8(model: nn.Module) -> None:
    """8-bit linear quantisation without pruning or retraining, the baseline of every table."""
    weights = {n: p for n, p in model.named_parameters() if p.dim() > 1}
    quantized = quantize_uniform({n: p.detach().numpy() for n, p in weights.items()}, 255)
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(torch.from_numpy(quantized[name].dense()))
