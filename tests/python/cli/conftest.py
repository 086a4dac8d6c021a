"""The command within this process, and files to give it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import Done, Fails, Run, f32

from tersor.cli.main import main
from tersor.io import container
from tersor.io.container import Tensor


@pytest.fixture(autouse=True)
def _typer() -> None:
    pytest.importorskip("typer")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command."""

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture
def works(run: Run) -> Run:
    """Runs the command, which must succeed."""

    def works(*arguments: object) -> Done:
        done = run(*arguments)
        assert done.status == 0, done.stderr
        return done

    return works


@pytest.fixture
def fails(run: Run) -> Fails:
    """Runs the command, which must end in one line on stderr and status 2; gives the line."""

    def fails(*arguments: object) -> str:
        done = run(*arguments)
        assert done.status == 2, done.stdout + done.stderr
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("tersor: ")
        return lines[0]

    return fails


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """A small dense model file."""
    rng = np.random.default_rng(1)
    path = tmp_path / "dense.safetensors"
    container.write_file(
        path,
        {
            "fc.weight": f32(rng.normal(size=(20, 30))),
            "fc.bias": f32(rng.normal(size=20)),
            "conv.weight": f32(rng.normal(size=(4, 3, 3, 3))),
            "embedding.weight": f32(rng.normal(size=(50, 8))),
            "norm.weight": f32(np.ones(20)),
            "steps": Tensor("I64", (1,), bytes(8)),
        },
        {"format": "pt"},
    )
    return path


@pytest.fixture
def small(dense: Path, works: Run) -> Path:
    """The same, compressed."""
    path = dense.with_name("small.safetensors")
    works("compress", dense, "-o", path, "--density", "0.5")
    return path
