"""The command ``tersor``; its commands stand in :mod:`tersor.cli.app`.

User errors are reported on one line of stderr, exit status 2. typer and rich are imported where
they are needed: ``tersor inspect`` loads no torch, and rich only for a terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from tersor._core import FormatError
from tersor.cli.errors import InputError
from tersor.cli.inspect import inspect_command

_EXTRAS = {"typer": "cli", "rich": "cli", "jinja2": "report"}
_PIPE_CLOSED = 128 + 13  # what a shell reports of a program that SIGPIPE ended


def _run(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["inspect"]:
        inspect_command(arguments[1:])
    else:
        from tersor.cli.app import app

        app(args=list(arguments), prog_name="tersor")


def _message(error: Exception) -> str:
    """One line: for what the system refuses, the path and the reason."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}"
    return " ".join(str(error).split()) or type(error).__name__


def _drop_output() -> None:
    """Leaves nothing to be flushed into a pipe that nobody reads."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit status: 0; 2 after an error; 141 where the reader of the output went away.
    """
    try:
        try:
            _run(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()  # a pipe that is closed shows here and not when Python ends
    except SystemExit as done:  # how both parsers end, usage errors (2) included
        return done.code if isinstance(done.code, int) else 0 if done.code is None else 1
    except BrokenPipeError:
        _drop_output()
        return _PIPE_CLOSED
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "")
        if extra is None:
            raise
        hint = f"pip install 'tersor[{extra}]'"
        print(f"tersor: the command needs {error.name}: {hint}", file=sys.stderr)
        return 2
    except (InputError, FormatError, OSError, ValueError) as error:
        print(f"tersor: {_message(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
