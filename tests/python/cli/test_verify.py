"""Whether files are as they were written."""

from __future__ import annotations

from pathlib import Path

from command_line import Run

from tersor.io import container
from tersor.io.container import Tensor


def test_whole_and_damaged_files(small: Path, dense: Path, tmp_path: Path, run: Run) -> None:
    stock = tmp_path / "stock.safetensors"
    with container.open(dense) as file:
        tensors = {n: Tensor(v.dtype, v.shape, v.bytes()) for n, v in file.tensors.items()}
        container.write_file(stock, tensors, plain=True)
    done = run("verify", small, stock)
    assert done.status == 0
    assert "checksums of every byte" in done.stdout.splitlines()[0]
    assert "0 blobs alone" in done.stdout.splitlines()[1]
    assert run("verify", small, "--decode").status == 0
    bad = tmp_path / "bad.safetensors"
    content = bytearray(small.read_bytes())
    content[-20] ^= 4
    bad.write_bytes(content)
    done = run("verify", bad, small, tmp_path / "none.safetensors")
    assert done.status == 1
    assert len(done.stdout.splitlines()) == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("tersor: ") for line in lines)
    assert str(bad) in lines[0]
    assert "none.safetensors" in lines[1]
