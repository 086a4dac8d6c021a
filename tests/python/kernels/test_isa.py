"""Levels, their choice by the environment, and what show_config tells."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import tersor
from tersor.kernels import isa


def test_scalar_is_compiled_and_available() -> None:
    assert isa.compiled()[0] == "scalar"
    assert "scalar" in isa.available()
    assert isa.in_use() in isa.available()


@pytest.mark.parametrize("level", isa.available())
def test_use_selects_and_restores(level: str) -> None:
    with isa.use(level):
        assert isa.in_use() == level
        with isa.use("scalar"):
            assert isa.in_use() == "scalar"
        assert isa.in_use() == level


def test_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="sse9"), isa.use("sse9"):
        pass


def _run(level: str) -> subprocess.CompletedProcess[str]:
    code = "from tersor.kernels import isa; print(isa.in_use())"
    environment = {**os.environ, "TERSOR_ISA": level}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


def test_environment_names_the_level() -> None:
    for level in isa.available():
        assert _run(level).stdout.strip() == level


def test_environment_with_an_unknown_level_is_an_error() -> None:
    done = _run("avx9000")
    assert done.returncode != 0
    assert "avx9000" in done.stderr


def test_show_config_tells_the_build() -> None:
    info = tersor.show_config()
    assert info.version == tersor.__version__
    assert info.isa_in_use == isa.in_use()
    assert info.threads >= 1
    assert info.threads_run_by in {"torch", "openmp", "custom", "serial"}
    assert info.compiler in str(info)
