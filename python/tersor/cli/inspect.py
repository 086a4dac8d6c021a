"""``tersor inspect``: where the bytes of a file go."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tersor.cli.errors import naming_file
from tersor.io import container
from tersor.reporting.file_report import Report, report, to_json, to_table, to_text, totals_lines

_ANY_WIDTH = 10_000  # columns, more than any table takes


def inspect(source: Path, *, verify: bool = False) -> Report:
    """The table of a file, from its headers alone unless ``verify``.

    Raises:
        InputError, OSError: the message names what is wrong with which file.
    """
    with naming_file(source), container.open(source) as file:
        return report(file, verify=verify)


def show(report: Report, title: str) -> None:
    """Prints a table and its totals; on a terminal in a frame, with the columns that fit."""
    if not sys.stdout.isatty() or find_spec("rich") is None:
        print(to_text(report))
        return
    from rich.console import Console

    console = Console()
    table = to_table(report, title)
    if (
        console.measure(table, options=console.options.update(width=_ANY_WIDTH)).maximum
        > console.width
    ):
        table = to_table(report, title, paper=False)
    console.print(table)
    print("\n".join(totals_lines(report.totals)))


def show_json(report: Report) -> None:
    """Prints a report as JSON."""
    print(json.dumps(to_json(report), indent=2))


def inspect_command(arguments: Sequence[str]) -> None:
    """``tersor inspect``, which needs numpy alone: importing typer takes longer than the answer."""
    parser = argparse.ArgumentParser(
        prog="tersor inspect",
        description="Show what each layer of a compressed file costs, from its real bytes.",
        epilog="Examples:\n  tersor inspect small.safetensors --verify",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="a model file, folder or index")
    parser.add_argument("--verify", action="store_true", help="check all checksums")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parsed = parser.parse_args(arguments)
    report = inspect(parsed.file, verify=parsed.verify)
    if parsed.json:
        show_json(report)
        return
    show(report, parsed.file.name)
    if parsed.verify:
        print("all checksums OK")
