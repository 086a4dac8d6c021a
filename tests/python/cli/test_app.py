"""The help of each command, its examples, and completion in shells."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, f32

from tersor.cli.app import app
from tersor.io import container

COMMANDS = [str(command.name) for command in app.registered_commands]


@pytest.fixture(autouse=True)
def _width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def examples(run: Run, command: str) -> list[str]:
    """Those that the help of a command ends with."""
    _, found, text = run(command, "--help").stdout.partition("Examples:")
    assert found, f"the help of {command} has no examples"
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_the_help_names_every_command(works: Run) -> None:
    shown = works("--help").stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert all(f" {command} " in shown for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_fits_and_has_an_example(command: str, works: Run) -> None:
    shown = works(command, "--help").stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown  # nothing is cut
    lines = examples(works, command)
    assert lines
    assert all(line.startswith(f"tersor {command}") for line in lines)


def test_examples_run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weight = f32(np.random.default_rng(1).normal(size=(64, 64)))
    Path("checkpoint").mkdir()
    for path in ("model.safetensors", "checkpoint/model.safetensors"):
        container.write_file(path, {"fc.weight": weight}, plain=True)
    for command in COMMANDS:
        for line in examples(run, command):
            arguments = line.split()[1:]
            again = ["--force"] if command == "compress" and "ratio" in line else []
            done = run(*arguments, *again)
            assert done.status == int(command == "diff"), (line, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell: str) -> None:
    for words, wanted in (
        ("tersor comp", "compress"),
        ("tersor compress --targ", "--target-ratio"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "tersor.cli.main"],
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "_TERSOR_COMPLETE": f"complete_{shell}",
                "COMP_WORDS": words,
                "COMP_CWORD": str(words.count(" ")),
                "_TYPER_COMPLETE_ARGS": words,
                "_TYPER_COMPLETE_FISH_ACTION": "get-args",
                "_TYPER_COMPLETE_WORD_TO_COMPLETE": words.split()[-1],
            },
        )
        assert wanted in re.split(r"[^\w-]+", done.stdout), done.stdout + done.stderr


def test_completion_can_be_installed(works: Run) -> None:
    assert "--install-completion" in works("--help").stdout
