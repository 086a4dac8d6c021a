"""``tersor report``: a page about a file."""

from __future__ import annotations

from pathlib import Path

from tersor.cli.bench import BenchOptions, bench
from tersor.cli.errors import InputError, naming_file
from tersor.io import container
from tersor.reporting.difference import relative_errors
from tersor.reporting.file_report import stored_tensors
from tersor.reporting.page import render


def report_page(
    source: Path, output: Path, *, against: Path | None, profile: bool, force: bool
) -> None:
    """Writes the page.

    Args:
        source: a model.
        output: the HTML file.
        against: the dense model, for the error of each layer.
        profile: time the layers too.
        force: overwrite an existing output.

    Raises:
        InputError, OSError: the message names what is wrong with which file.
    """
    if output.exists() and not force:
        raise InputError(f"{output}: exists already (--force overwrites it)")
    errors: dict[str, float] = {}
    times: dict[str, tuple[float, float]] = {}
    if profile:
        for each in bench(source, BenchOptions())[0]:
            layer = each.name.rpartition(".")[0] or each.name
            times[layer] = (each.dense_us / 1e3, each.compressed_us / 1e3)
    with naming_file(source), container.open(source) as file:
        file.verify()
        if against is not None:
            with naming_file(against), container.open(against) as dense:
                errors = relative_errors(dense, file)
        tensors = stored_tensors(file)
        page = render(
            tensors, file.metadata, file.file_bytes, title=source.name, errors=errors, times=times
        )
    output.write_text(page, "utf-8")
