"""What docs/which_settings.md shows is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import tersor
from tersor.cli.main import main
from tests.docs import stand_ins
from tests.docs.blocks import blocks, commands

PYTHON = blocks("docs/which_settings.md", "python")
COMMANDS = list(commands(blocks("docs/which_settings.md", "sh")))


def ratio_above(bound: float) -> Callable[[dict[str, Any]], None]:
    def check(names: dict[str, Any]) -> None:
        assert tersor.report(names["model"]).ratio > bound

    return check


def _accuracy_stays(names: dict[str, Any]) -> None:
    before = stand_ins.accuracy_in_percent(stand_ins.names()["model"])
    assert before - stand_ins.accuracy_in_percent(names["model"]) <= 0.5
    assert tersor.report(names["model"]).ratio > 4


def _estimates(names: dict[str, Any]) -> None:
    assert isinstance(names["model"].body, nn.Linear)  # nothing was done
    estimate = tersor.estimate(names["model"], names["config"])
    assert list(estimate.layers) == ["body"]  # a filter of 36 weights would grow


CHECKS = [
    ratio_above(4),
    ratio_above(6),
    ratio_above(12),
    _accuracy_stays,
    ratio_above(8),
    _estimates,
]


@pytest.mark.parametrize("block", range(len(PYTHON)))
def test_python_runs_as_it_stands(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(PYTHON) == len(CHECKS), "a block was added: say what must hold after it"
    monkeypatch.chdir(tmp_path)
    names = stand_ins.names()
    PYTHON[block].run(names)
    CHECKS[block](names)


def test_commands_give_the_same_bytes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stand_ins.write_files(tmp_path)
    for _, *arguments in COMMANDS:
        assert main(arguments) == 0
    first, second = (Path(f"{name}/model.safetensors") for name in ("checkpoint", "again"))
    assert first.read_bytes() == second.read_bytes()
