"""Levels, their choice by the environment, and what show_config tells."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import tersor
from tersor import isa as levels


def test_scalar_is_compiled_and_available() -> None:
    assert levels.compiled()[0] == "scalar"
    assert "scalar" in levels.available()
    assert levels.in_use() in levels.available()


def test_use_selects_and_restores(isa: str) -> None:
    assert levels.in_use() == isa
    with levels.use("scalar"):
        assert levels.in_use() == "scalar"
    assert levels.in_use() == isa


def test_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="sse9"), levels.use("sse9"):
        pass


def _run(level: str) -> subprocess.CompletedProcess[str]:
    code = "import tersor; print(tersor.isa.in_use())"
    environment = {**os.environ, "TERSOR_ISA": level}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


def test_environment_names_the_level() -> None:
    for level in levels.available():
        assert _run(level).stdout.strip() == level


def test_environment_with_an_unknown_level_is_an_error() -> None:
    done = _run("avx9000")
    assert done.returncode != 0
    assert "avx9000" in done.stderr


def test_show_config_tells_the_build() -> None:
    info = tersor.show_config()
    assert info.version == tersor.__version__
    assert info.isa_in_use == levels.in_use()
    assert info.threads >= 1
    assert info.threads_run_by in {"torch", "openmp", "custom", "serial"}
    assert info.compiler in str(info)
