"""``tersor diff``: what changed between two files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from tersor.cli.errors import naming_file
from tersor.io import container
from tersor.reporting.difference import Difference, differences

_HEADINGS = ("tensor", "bytes", "bytes", "change", "error", "")


def diff(a: Path, b: Path, *, as_json: bool = False, all_tensors: bool = False) -> bool:
    """Prints how the tensors of two files differ, and whether they do.

    Args:
        a, b: models, dense or compressed; errors are relative to the first.
        as_json: print all as JSON.
        all_tensors: also those that are the same.

    Returns:
        Whether anything differs.

    Raises:
        InputError, OSError: the message names what is wrong with which file.
    """
    with naming_file(a), container.open(a) as first, naming_file(b), container.open(b) as second:
        found = list(differences(first, second))
        sizes = first.file_bytes, second.file_bytes
    changed = [each for each in found if not each.same]
    if as_json:
        tensors = [{**dataclasses.asdict(each), "note": each.note} for each in found]
        print(json.dumps({"file_bytes": sizes, "tensors": tensors}, indent=2))
        return bool(changed)
    shown = found if all_tensors else changed
    if shown:
        _print([_HEADINGS, *map(_cells, shown)])
        print()
    same = len(found) - len(changed)
    print(f"{len(changed)} of {len(found)} tensors differ, {same} the same")
    print(f"file bytes: {sizes[0]:,} -> {sizes[1]:,} ({sizes[1] / sizes[0]:.3f}x)")
    return bool(changed)


def _cells(found: Difference) -> tuple[str, ...]:
    a, b = found.bytes_a, found.bytes_b
    error = found.relative_error
    return (
        found.name,
        "" if a is None else f"{a:,}",
        "" if b is None else f"{b:,}",
        "" if a is None or b is None else f"{b - a:+,}",
        "" if error is None else f"{error:.3%}",
        found.note,
    )


def _print(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (
            cell.ljust(width) if i in (0, 5) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip())
