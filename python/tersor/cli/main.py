"""The command ``tersor``: compress, inspect, decompress, env.

Whatever is wrong with the user's files ends in one line on stderr and exit status 2. typer and rich
are imported where they are needed: ``tersor inspect`` loads no torch, and rich only for a terminal.
"""

# No postponed annotations here: typer evaluates them, and it is imported inside a function.

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tersor._core import FormatError
from tersor.cli.compress import compress
from tersor.cli.decompress import decompress
from tersor.cli.errors import InputError
from tersor.cli.inspect import inspect
from tersor.kernels import isa

if TYPE_CHECKING:
    from tersor.reporting.file_report import Report


def _show(report: "Report", title: str) -> None:
    from tersor.reporting.file_report import to_table, to_text, totals_lines

    if not sys.stdout.isatty() or find_spec("rich") is None:
        print(to_text(report))
        return
    from rich.console import Console

    Console().print(to_table(report, title))
    print("\n".join(totals_lines(report.totals)))


def inspect_command(arguments: Sequence[str]) -> None:
    """``tersor inspect``, which needs numpy alone: importing typer takes longer than the answer."""
    parser = argparse.ArgumentParser(
        prog="tersor inspect",
        description="Show what each layer of a compressed file costs, from its real bytes.",
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("--verify", action="store_true", help="check every hash")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parsed = parser.parse_args(arguments)
    report = inspect(parsed.file, verify=parsed.verify)
    if parsed.json:
        from tersor.reporting.file_report import to_json

        print(json.dumps(to_json(report), indent=2))
        return
    _show(report, parsed.file.name)
    if parsed.verify:
        print("every hash is right")


def _app() -> Any:
    import typer

    app = typer.Typer(
        name="tersor",
        help="Prune, share, Huffman-code and run networks straight from the compressed form.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    patterns = "shell pattern on tensor names; may be given more than once"

    @app.command("compress")
    def _compress(
        source: Annotated[
            Path,
            typer.Argument(
                metavar="IN",
                help=".safetensors, .pt, or the index (or folder) of a sharded checkpoint",
            ),
        ],
        output: Annotated[Path | None, typer.Option("-o", "--output", metavar="OUT")] = None,
        bits: Annotated[int, typer.Option(min=1, max=8, help="code width of matrices")] = 4,
        conv_bits: Annotated[int, typer.Option(min=1, max=8, help="code width of filters")] = 8,
        density: Annotated[
            float | None, typer.Option(min=0.0, max=1.0, help="part of the weights to keep")
        ] = None,
        method: Annotated[str, typer.Option(help="kmeans, uniform or ecsq")] = "kmeans",
        target_bytes: Annotated[
            int | None, typer.Option(min=1, help="choose density and codes for a file so large")
        ] = None,
        target_ratio: Annotated[
            float | None, typer.Option(help="the same by the ratio of dense bytes to the file's")
        ] = None,
        only: Annotated[list[str] | None, typer.Option(help=f"take these: {patterns}")] = None,
        skip: Annotated[list[str] | None, typer.Option(help=f"leave these: {patterns}")] = None,
        min_size: Annotated[int, typer.Option(min=0, help="leave tensors with fewer weights")] = 0,
        dry_run: Annotated[bool, typer.Option(help="tell the size, write nothing")] = False,
    ) -> None:
        """Compress a dense model file; which tensors are taken is printed, a line each."""
        report = compress(
            source,
            output,
            bits=bits,
            conv_bits=conv_bits,
            density=density,
            method=method,  # type: ignore[arg-type]
            target_bytes=target_bytes,
            target_ratio=target_ratio,
            only=only or (),
            skip=skip or (),
            min_size=min_size,
            dry_run=dry_run,
        )
        print()
        _show(report, str(output or "dry run"))

    @app.command(
        "inspect", add_help_option=False, context_settings={"ignore_unknown_options": True}
    )
    def _inspect(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
        """Show what each layer of a compressed file costs, from its real bytes."""
        inspect_command(arguments or [])

    @app.command("decompress")
    def _decompress(
        source: Annotated[Path, typer.Argument(metavar="FILE")],
        output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT")],
    ) -> None:
        """Write the dense tensors of a compressed file as ordinary safetensors."""
        print(f"{decompress(source, output)} tensors written to {output}")

    @app.command("env")
    def _env() -> None:
        """Show version, compiler, instruction sets and threads."""
        print(isa.show_config())

    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status: 0, or 2 after an error."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if given[:1] == ["inspect"]:
            inspect_command(given[1:])
        else:
            _app()(args=given, prog_name="tersor")
    except SystemExit as done:  # how both parsers end, usage errors (2) included
        return done.code if isinstance(done.code, int) else 0 if done.code is None else 1
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print(f"tersor: the command needs {error.name}: pip install 'tersor[cli]'", file=sys.stderr)
        return 2
    except (InputError, FormatError, OSError, ValueError) as error:
        message = " ".join(str(error).split())
        print(f"tersor: {message or type(error).__name__}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
