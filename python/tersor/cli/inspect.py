"""``tersor inspect``: where the bytes of a file go."""

from __future__ import annotations

from pathlib import Path

from tersor.cli.errors import naming_file
from tersor.io import container
from tersor.reporting.file_report import Report, report


def inspect(source: Path, *, verify: bool = False) -> Report:
    """The table of a file, from its headers alone unless ``verify``.

    Raises:
        InputError, OSError: the message names what is wrong with which file.
    """
    with naming_file(source), container.open(source) as file:
        return report(file, verify=verify)
