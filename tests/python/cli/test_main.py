"""The command as a process, and its errors: one line and status 2 for whatever is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import Fails, Run, f32

import tersor
from tersor.io import container

pytestmark = pytest.mark.slow  # a process for each command


def process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tersor.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_env_tells_the_instruction_set() -> None:
    done = process("env", TERSOR_ISA="scalar")
    assert done.returncode == 0
    assert "in use: scalar" in done.stdout


def test_version(works: Run) -> None:
    assert works("--version").stdout == f"tersor {tersor.__version__}\n"


@pytest.mark.parametrize("arguments", [("inspect", "--json"), ("inspect",), ("env",)])
def test_a_reader_that_goes_away_ends_it_without_a_traceback(
    arguments: tuple[str, ...], dense: Path
) -> None:
    file = [str(dense)] if arguments[0] == "inspect" else []
    read, write = os.pipe()
    os.close(read)  # as `| head` does once it has its lines
    done = subprocess.run(
        [sys.executable, "-m", "tersor.cli.main", *arguments, *file],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert done.stderr == ""
    assert done.returncode in (1, 141)  # typer has its own status for it


# ---- What is wrong ends in one line


@pytest.mark.parametrize("command", ["inspect", "compress", "decompress"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [("no.safetensors", "no such file"), ("dense.safetensors/x", "not a directory")],
)
def test_wrong_path(command: str, name: str, reason: str, dense: Path, fails: Fails) -> None:
    out = dense.with_name("out.safetensors")
    rest = [] if command == "inspect" else ["-o", out]
    line = fails(command, dense.parent / name, *rest)
    assert line.startswith(f"tersor: {dense.parent / name}: {reason}")
    assert not out.exists()


@pytest.mark.parametrize("command", ["inspect", "compress", "decompress"])
@pytest.mark.parametrize(
    "content", [b"", b"hello", bytes(64), b"PK\x03\x04" * 30, b"\x80\x02." * 9]
)
def test_not_a_model(command: str, content: bytes, tmp_path: Path, fails: Fails) -> None:
    path, out = tmp_path / "bad.safetensors", tmp_path / "out.safetensors"
    path.write_bytes(content)
    rest = [] if command == "inspect" else ["-o", out]
    assert str(path) in fails(command, path, *rest)
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("part", [4, 200, -1])
def test_truncated(part: int, small: Path, fails: Fails) -> None:
    path, out = small.with_name("cut.safetensors"), small.with_name("out.safetensors")
    path.write_bytes(small.read_bytes()[:part])
    assert "cut.safetensors" in fails("inspect", path)
    assert "cut.safetensors" in fails("decompress", path, "-o", out)
    assert not out.exists()


def test_altered(small: Path, fails: Fails) -> None:
    path, out = small.with_name("altered.safetensors"), small.with_name("out.safetensors")
    data = bytearray(small.read_bytes())
    data[len(data) // 2] ^= 4  # in a tensor: the header is far shorter
    path.write_bytes(data)
    assert "altered.safetensors" in fails("inspect", path, "--verify")
    assert "altered.safetensors" in fails("decompress", path, "-o", out)
    assert not out.exists()


def test_not_finite_weights_name_the_layer(tmp_path: Path, fails: Fails) -> None:
    path, out = tmp_path / "nan.safetensors", tmp_path / "out.safetensors"
    weight = np.ones((4, 4))
    weight[1, 2] = np.nan
    container.write_file(path, {"deep.fc.weight": f32(weight)})
    assert f"{path}: deep.fc.weight: " in fails("compress", path, "-o", out)
    assert not out.exists()


def test_what_the_system_refuses_is_told_with_the_path(dense: Path, fails: Fails) -> None:
    loop = dense.with_name("loop.safetensors")
    loop.symlink_to(loop.name)
    line = fails("compress", loop, "-o", dense.with_name("out.safetensors"))
    assert line.startswith(f"tersor: {loop}: too many levels")
    missing = dense.with_name("missing") / "out.safetensors"
    assert fails("compress", dense, "-o", missing).endswith(f"{missing.parent}: no such folder")


@pytest.mark.parametrize("arguments", [("inspect",), ("fly",), ("compress", "--bits", "9")])
def test_usage_errors_have_status_2(arguments: tuple[str, ...], run: Run) -> None:
    assert run(*arguments).status == 2


def test_missing_typer_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('none', name='typer')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = process("env", PYTHONPATH=path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "tersor[cli]" in done.stderr
