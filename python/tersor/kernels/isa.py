"""Instruction-set levels: those compiled in, those available here, and the one in use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tersor import _core


def compiled() -> list[str]:
    """Names of the levels that this build has kernels for, ``scalar`` first."""
    return _core.compiled_isas()


def available() -> list[str]:
    """Names of the compiled levels that this processor and operating system can run."""
    return [name for name in _core.compiled_isas() if _core.isa_available(name)]


def in_use() -> str:
    """The level in use: the best available, or the one set by ``TERSOR_ISA`` or :func:`use`."""
    return _core.isa_in_use()


@contextmanager
def use(name: str) -> Iterator[None]:
    """Selects a level, process-wide, inside a ``with`` block; packed matrices keep their own.

    Raises:
        ValueError: the level is unknown, or not available on this machine.
    """
    previous = _core.isa_in_use()
    _core.use_isa(name)
    try:
        yield
    finally:
        _core.use_isa(previous)


@dataclass(frozen=True)
class BuildInfo:
    """The result of :func:`show_config`."""

    version: str
    compiler: str
    isas_compiled: tuple[str, ...]
    isas_available: tuple[str, ...]
    isa_in_use: str
    threads: int
    threads_run_by: str  # "torch", "openmp", "custom" or "serial"

    def __str__(self) -> str:
        return "\n".join(
            [
                f"tersor {self.version}, built by {self.compiler}",
                f"instruction sets compiled: {', '.join(self.isas_compiled)}",
                f"instruction set in use: {self.isa_in_use}",
                f"threads: {self.threads}, run by {self.threads_run_by}",
            ]
        )


def show_config() -> BuildInfo:
    """Version, compiler, instruction sets and thread pool; ``print`` the result to read it."""
    torch = sys.modules.get("torch")  # asked, never imported
    threads = torch.get_num_threads() if torch is not None else os.cpu_count() or 1
    return BuildInfo(
        version=_core.version(),
        compiler=_core.compiler(),
        isas_compiled=tuple(compiled()),
        isas_available=tuple(available()),
        isa_in_use=in_use(),
        threads=threads,
        threads_run_by=_core.parallel_runner_name(),
    )
