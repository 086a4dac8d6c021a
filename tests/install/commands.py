"""Commands that must succeed, and the library that they install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str | Path, **options: str | Path) -> str:
    """What a command prints.

    Args:
        arguments: of the command.
        options: ``cwd``, and variables of the environment.
    """
    cwd = options.pop("cwd", None)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PATH": path, **{k: str(v) for k, v in options.items()}},
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout
