"""What docs/quickstart.md shows is run, block by block in one folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

import tersor
from tersor.cli.main import main
from tests.docs import stand_ins
from tests.docs.blocks import blocks, commands

PYTHON = blocks("docs/quickstart.md", "python")
COMMANDS = list(commands(blocks("docs/quickstart.md", "sh")))


def test_python_runs_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stand_ins.write_bert(Path("dense"))
    names = stand_ins.names() | {"folder": "dense"}
    names["loader"] = list(names["inputs"].split(32))
    dense = names["model"](names["x"])
    PYTHON[0].run(names)
    assert isinstance(names["model"].body, tersor.nn.CompressedLinear)
    PYTHON[1].run(names)
    assert torch.allclose(names["y"], dense, atol=0.05)
    names["model"] = stand_ins.MyNetwork().eval()
    PYTHON[2].run(names)
    assert tersor.report(names["model"]).ratio > 8
    PYTHON[3].run(names)
    assert len(PYTHON) == 4
    back = transformers.AutoModel.from_pretrained("small")
    assert tersor.report(back).ratio > 4


def test_commands_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    stand_ins.write_files(tmp_path)
    assert len(COMMANDS) == 4
    for _, *arguments in COMMANDS:
        assert main(arguments) == int(arguments[0] == "diff"), capsys.readouterr().err
    assert Path("report.html").stat().st_size > 5000
