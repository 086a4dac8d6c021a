"""Instruction-set levels: which were compiled, which this machine has, which is in use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tersor import _core


def compiled() -> list[str]:
    """Names of the levels that this build has kernels for: ``scalar`` first."""
    return _core.compiled_isas()


def available() -> list[str]:
    """Names of the compiled levels that this processor and operating system can run."""
    return [name for name in _core.compiled_isas() if _core.isa_available(name)]


def in_use() -> str:
    """The level in use: the best available, or what ``TERSOR_ISA`` or :func:`use` chose."""
    return _core.isa_in_use()


@contextmanager
def use(name: str) -> Iterator[None]:
    """Selects a level for the whole process while the block runs; packed matrices keep their own.

    Raises:
        ValueError: the level is unknown, or this machine does not have it.
    """
    previous = _core.isa_in_use()
    _core.use_isa(name)
    try:
        yield
    finally:
        _core.use_isa(previous)
