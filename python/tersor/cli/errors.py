"""Errors of the user's input, which end in one line on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class InputError(Exception):
    """The user's input is wrong; the message is the line to print."""


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Makes the message of malformed data, and of numbers that cannot be used, name its file."""
    try:
        yield
    except ValueError as error:  # FormatError is one
        message = str(error)
        raise InputError(message if str(path) in message else f"{path}: {message}") from error


def import_torch() -> Any:
    """The module torch.

    Raises:
        InputError: it is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise InputError("this needs torch: pip install 'tersor[torch]'") from error
    return torch
