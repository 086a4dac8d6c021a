"""Where the lines of a long call go: to a function, to a display on the terminal, or nowhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal, TypeAlias

Progress: TypeAlias = "Callable[[str], None] | Literal['auto'] | None"
"""A function that is called with each line; None = nothing is shown; ``auto`` = a display where
standard output is a terminal and rich is installed."""


def _silent(line: str) -> None:
    pass


@contextmanager
def shown(progress: Progress) -> Iterator[Callable[[str], None]]:
    """The function that takes the lines, for as long as the block lasts.

    Raises:
        TypeError: it is none of what :data:`Progress` allows.
    """
    if callable(progress):
        yield progress
    elif progress is None:
        yield _silent
    elif progress != "auto":
        raise TypeError(f"progress must be a function, 'auto' or None, not {progress!r}")
    elif sys.stdout is None or not sys.stdout.isatty() or find_spec("rich") is None:
        yield _silent
    else:
        from rich.console import Console
        from rich.markup import escape

        # Gone when the work is done; what stays is up to the caller.
        with Console().status("") as status:
            yield lambda line: status.update(escape(line))
