"""Writes what the commands of docs/transcript.md print into the page.

python -m tests.docs.transcript
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator

from tersor.cli.main import main as tersor
from tests.docs.blocks import ROOT, Block, blocks

PAGE = ROOT / "docs" / "transcript.md"
MODEL = ROOT / "examples" / "mnist" / "checkpoints" / "lenet-5.safetensors"


def recorded(found: list[Block]) -> Iterator[tuple[str, str]]:
    """Each command of blocks of a console, and what it printed."""
    for block in found:
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def replayed(commands: list[str]) -> Iterator[tuple[str, str]]:
    """Each command, and what it prints now: all in a new folder that has the model."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(MODEL, folder)
        os.chdir(folder)
        try:
            for command in commands:
                name, *arguments = shlex.split(command)
                assert name == "tersor"
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                    status = tersor(arguments)
                # diff: as of its namesake, 1 says that there is a difference.
                assert status == int(arguments[0] == "diff"), printed.getvalue()
                yield command, printed.getvalue()
        finally:
            os.chdir(before)


def compared(command: str, output: str) -> str:
    """What of an output is the same on every machine, as the page says."""
    if command.startswith("tersor env"):
        return re.sub(r":.*", ":", output)
    if command.startswith("tersor bench"):
        return re.sub(r" +", " ", re.sub(r"[\d.,]*\d", "#", output))
    return output


def main() -> None:
    """Runs the commands and writes the page."""
    text = PAGE.read_text("utf-8")
    commands = [command for command, _ in recorded(blocks("docs/transcript.md", "console"))]
    outputs = dict(replayed(commands))

    def block(found: re.Match[str]) -> str:
        mine = re.findall(r"^\$ (.*)$", found[0], re.MULTILINE)
        printed = "".join(f"$ {command}\n{outputs[command]}" for command in mine)
        return f"```console\n{printed}```"

    PAGE.write_text(re.sub(r"^```console\n.*?^```", block, text, flags=re.M | re.S), "utf-8")


if __name__ == "__main__":
    main()
