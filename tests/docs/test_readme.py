"""What the README shows is run: its Python as it stands, its commands through the command line."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import tersor
from tersor.cli.main import main
from tests.docs import stand_ins
from tests.docs.blocks import ROOT, blocks, commands

PYTHON = blocks("README.md", "python")
COMMANDS = list(commands(blocks("README.md", "sh")))
CONTRIBUTING = list(commands(blocks("CONTRIBUTING.md", "sh")))


@pytest.fixture(name="names")
def _names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the text around the blocks speaks of, anew for each of them."""
    monkeypatch.chdir(tmp_path)
    return stand_ins.names() | {"Config": tersor.Config}


def _after_saving(names: dict[str, Any]) -> None:
    assert isinstance(names["model"].body, tersor.nn.CompressedLinear)
    assert names["y"].shape == (1, 10)


def _after_estimating(names: dict[str, Any]) -> None:
    assert isinstance(names["model"].body, nn.Linear)  # nothing was done yet
    assert "head" not in tersor.estimate(names["model"], names["config"]).layers


def _after_targets(names: dict[str, Any]) -> None:
    assert tersor.report(names["model"]).ratio > 12


def _after_calibrating(names: dict[str, Any]) -> None:
    assert tersor.report(names["model"]).ratio > 15


def _after_loading_again(names: dict[str, Any]) -> None:
    assert Path("small/config.json").exists()
    assert tersor.report(names["model"]).ratio > 7


def _after_training(names: dict[str, Any]) -> None:
    layers = tersor.load("small.safetensors").layers
    kept = sum(int(layer.csr.codes.astype(bool).sum()) for layer in layers.values())
    weights = 4 * 9 + 64 * 4 * 14 * 14 + 10 * 64
    assert kept == round(0.1 * weights)
    assert all(layer.values.size <= 15 for layer in layers.values())


CHECKS: list[Callable[[dict[str, Any]], None]] = [
    _after_saving,
    _after_estimating,
    _after_targets,
    _after_calibrating,
    _after_loading_again,
    _after_training,
]


@pytest.mark.parametrize("block", range(len(PYTHON)))
def test_python_runs_as_it_stands(block: int, names: dict[str, Any]) -> None:
    assert len(PYTHON) == len(CHECKS), "a block was added: say what must hold after it"
    if "AutoModel" in PYTHON[block].text:
        stand_ins.write_bert(Path("dense"))
        names["folder"] = "dense"
    PYTHON[block].run(names)
    CHECKS[block](names)


def test_commands_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    stand_ins.write_files(tmp_path)
    mine = [arguments for name, *arguments in COMMANDS if name == "tersor"]
    assert len(mine) >= 9
    seen = set()
    for arguments in mine:
        output = arguments[arguments.index("-o") + 1] if "-o" in arguments else None
        again = ["--force"] if output and output in seen else []  # the same file once more
        seen.add(output)
        status = main([*arguments, *again])
        captured = capsys.readouterr()
        # diff: as of its namesake, 1 says that there is a difference.
        assert status == int(arguments[0] == "diff"), (arguments, captured.err)
        assert captured.err == "" or arguments[0] == "compress", (arguments, captured.err)


@pytest.mark.parametrize(
    "command", [c for c in [*COMMANDS, *CONTRIBUTING] if c[0] != "tersor"], ids=" ".join
)
def test_targets_of_make_are_there(command: list[str]) -> None:
    assert command[0] == "make"
    done = subprocess.run([*command, "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
