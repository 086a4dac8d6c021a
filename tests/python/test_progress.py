"""Where the lines of compress_, estimate and fit go."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from networks import two_linears, vectors

import tersor
from tersor import Config, _progress
from tersor.pipeline.compress import fit


class Terminal:
    """What rich is asked to show, and where."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.open = False

    def status(self, _: str) -> Terminal:
        return self

    def update(self, line: str) -> None:
        assert self.open
        self.lines.append(line)

    def __enter__(self) -> Terminal:
        self.open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    console = pytest.importorskip("rich.console", reason="rich is an extra")
    made = Terminal()
    monkeypatch.setattr(console, "Console", lambda: made)
    monkeypatch.setattr(_progress.sys.stdout, "isatty", lambda: True, raising=False)
    return made


def lines_of(**arguments: Any) -> list[str]:
    lines: list[str] = []
    tersor.compress_(two_linears(), progress=lines.append, **arguments)
    return lines


def test_a_function_gets_a_line_for_each_layer() -> None:
    lines = lines_of()
    assert len(lines) == 2
    for number, (line, name) in enumerate(zip(lines, "02", strict=True), 1):
        assert re.fullmatch(rf"{number}/2 {name}: 16,384 -> \d,\d+ bytes", line)


def test_calibration_and_searches_tell_their_steps() -> None:
    calibrated = lines_of(data=[vectors()])
    assert calibrated[-2:] == [line for line in calibrated if "bytes" in line]
    assert len(calibrated) == 4
    searched = lines_of(config=Config(target_ratio=9))
    assert len([line for line in searched if "lambda" in line]) > 1


def test_auto_shows_them_on_a_terminal_and_takes_the_display_away(terminal: Terminal) -> None:
    tersor.compress_(two_linears())
    assert len(terminal.lines) == 2
    assert not terminal.open
    tersor.estimate(two_linears())
    assert len(terminal.lines) == 4
    fit(two_linears(), Config(target_ratio=9))
    assert len(terminal.lines) > 4


def test_names_are_no_markup(terminal: Terminal) -> None:
    model = torch.nn.ModuleDict({"[bold]": torch.nn.Linear(64, 64)})
    tersor.compress_(model)
    assert "\\[bold]" in terminal.lines[0]


def test_the_display_goes_where_a_call_fails(terminal: Terminal) -> None:
    with pytest.raises(ValueError, match="cannot reach"):
        tersor.compress_(two_linears(), Config(target_bytes=10))
    assert terminal.lines
    assert not terminal.open


def test_none_and_other_outputs_show_nothing(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tersor.compress_(two_linears(), progress=None)
    monkeypatch.setattr(_progress, "find_spec", lambda _: None)  # without rich
    tersor.compress_(two_linears())
    monkeypatch.undo()
    tersor.compress_(two_linears())  # captured, no terminal
    with monkeypatch.context() as patch:
        patch.setattr(_progress.sys, "stdout", None)  # a program without a console
        tersor.compress_(two_linears())
    assert not terminal.lines
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("progress", ["always", 3, True])
def test_anything_else_is_refused_and_changes_nothing(progress: Any) -> None:
    model = two_linears()
    with pytest.raises(TypeError, match="progress must be a function, 'auto' or None"):
        tersor.compress_(model, progress=progress)
    assert type(model[0]) is torch.nn.Linear
