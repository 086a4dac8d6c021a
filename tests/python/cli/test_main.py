"""The command by subprocess: what it writes, and one line and status 2 for whatever is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tersor.config import METHODS
from tersor.io import container

pytest.importorskip("typer")

pytestmark = pytest.mark.slow  # a process for each command


def tersor(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tersor.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def fails_cleanly(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("tersor: ")
    for word in words:
        assert word in lines[0]


def f32(array: np.ndarray) -> container.Tensor:
    array = np.ascontiguousarray(array, np.float32)
    return container.Tensor("F32", array.shape, array.tobytes())


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    path = tmp_path_factory.mktemp("cli") / "dense.safetensors"
    container.write_file(
        path,
        {
            "fc.weight": f32(rng.normal(size=(20, 30))),
            "fc.bias": f32(rng.normal(size=20)),
            "conv.weight": f32(rng.normal(size=(4, 3, 3, 3))),
            "embedding.weight": f32(rng.normal(size=(50, 8))),
            "norm.weight": f32(np.ones(20)),
            "steps": container.Tensor("I64", (1,), bytes(8)),
        },
        {"format": "pt"},
    )
    return path


@pytest.fixture(scope="module")
def small(dense: Path) -> Path:
    pytest.importorskip("torch")
    path = dense.with_name("small.safetensors")
    done = tersor("compress", dense, "-o", path, "--density", "0.5")
    assert done.returncode == 0, done.stderr
    return path


def test_compress_tells_what_it_takes_and_writes_it(dense: Path, small: Path) -> None:
    with container.open(small) as file:
        assert file.is_tersor
        compressed = {name for name, tensor in file.tensors.items() if tensor.compressed}
        assert compressed == {"fc.weight_blob", "conv.weight_blob"}
        assert {"fc.bias", "embedding.weight", "norm.weight", "steps"} <= set(file.tensors)
        assert file.metadata["format"] == "pt"
    done = tersor("compress", dense, "--dry-run", "--density", "0.5")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    verbs = {"fc.weight": "compress", "embedding.weight": "leave", "steps": "leave"}
    for name, verb in verbs.items():
        assert [line.split()[0] for line in lines if f" {name} " in line] == [verb]
    assert f"{small.stat().st_size:,} bytes" in done.stdout  # the size of a dry run is the real one


@pytest.mark.parametrize("target", [("--target-ratio", "1.4"), ("--target-bytes", "3500")])
def test_compress_meets_a_target(dense: Path, tmp_path: Path, target: tuple[str, str]) -> None:
    done = tersor("compress", dense, "-o", tmp_path / "m.safetensors", *target)
    assert done.returncode == 0, done.stderr
    with container.open(dense) as file:
        bytes_ = sum(tensor.nbytes for tensor in file.tensors.values())
    limit = bytes_ / 1.4 if target[0] == "--target-ratio" else 3500
    assert 0.9 * limit <= (tmp_path / "m.safetensors").stat().st_size <= limit
    fails_cleanly(
        tersor("compress", dense, "--dry-run", "--target-bytes", 9), "9", "bytes at least"
    )
    both = tersor("compress", dense, "--dry-run", "--target-bytes", 9, "--target-ratio", 2)
    fails_cleanly(both, "either")


def test_compress_takes_the_method_by_name(dense: Path) -> None:
    outputs = {m: tersor("compress", dense, "--dry-run", "--method", m).stdout for m in METHODS}
    assert all(outputs.values())
    assert len(set(outputs.values())) == len(outputs)
    fails_cleanly(tersor("compress", dense, "--dry-run", "--method", "magic"), "magic")


def test_compress_reads_a_torch_state_dict(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(12, 9), torch.nn.BatchNorm1d(9)).bfloat16()
    torch.save(model.state_dict(), tmp_path / "m.pt")
    done = tersor("compress", tmp_path / "m.pt", "-o", tmp_path / "m.safetensors", "--bits", 8)
    assert done.returncode == 0, done.stderr
    with container.open(tmp_path / "m.safetensors") as file:
        assert file.tensors["0.weight_blob"].compressed
        assert file.tensors["0.bias"].dtype == "BF16"
        assert file.tensors["1.num_batches_tracked"].shape == ()


def test_inspect_counts_the_file(small: Path) -> None:
    done = tersor("inspect", small, "--json", "--verify")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["totals"]["file_bytes"] == small.stat().st_size
    assert {row["name"] for row in data["layers"]} == {"fc.weight", "conv.weight"}
    assert data["layers"][0]["density"] == pytest.approx(0.5, abs=0.01)
    text = tersor("inspect", small)
    assert text.returncode == 0
    assert "fc.weight" in text.stdout


def test_inspect_opens_any_safetensors_file(dense: Path) -> None:
    done = tersor("inspect", dense)
    assert done.returncode == 0, done.stderr
    assert "total" in done.stdout


def test_decompress_gives_dense_tensors_back(dense: Path, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "back.safetensors"
    done = tersor("decompress", small, "-o", out)
    assert done.returncode == 0, done.stderr
    with container.open(out) as back, container.open(dense) as before:
        assert set(back.tensors) == set(before.tensors)
        for name, tensor in before.tensors.items():
            assert tuple(back.tensors[name].shape) == tuple(tensor.shape)
        for name in ("fc.bias", "embedding.weight", "steps"):
            assert back.tensors[name].bytes().tobytes() == before.tensors[name].bytes().tobytes()
        weight = back.tensors["fc.weight"].bytes().tobytes()
        values = np.frombuffer(weight, np.float32)
        assert len(np.unique(values)) <= 16
        assert np.count_nonzero(values) == pytest.approx(300, abs=5)


def test_env_tells_the_instruction_set() -> None:
    done = tersor("env", TERSOR_ISA="scalar")
    assert done.returncode == 0
    assert "in use: scalar" in done.stdout


# ---- What is wrong ends in one line


@pytest.mark.parametrize("command", ["inspect", "compress", "decompress"])
def test_wrong_path(command: str, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    rest = [] if command == "inspect" else ["-o", out]
    fails_cleanly(tersor(command, tmp_path / "no.safetensors", *rest), "no.safetensors")
    assert not out.exists()


@pytest.mark.parametrize("command", ["inspect", "compress", "decompress"])
@pytest.mark.parametrize("content", [b"", b"hello", bytes(64), b"PK\x03\x04" * 30])
def test_not_a_model(command: str, content: bytes, tmp_path: Path) -> None:
    path, out = tmp_path / "bad.safetensors", tmp_path / "out.safetensors"
    path.write_bytes(content)
    rest = [] if command == "inspect" else ["-o", out]
    fails_cleanly(tersor(command, path, *rest), "bad.safetensors")
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("part", [4, 200, -1])
def test_truncated(part: int, small: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "cut.safetensors", tmp_path / "out.safetensors"
    path.write_bytes(small.read_bytes()[:part])
    fails_cleanly(tersor("inspect", path), "cut.safetensors")
    fails_cleanly(tersor("decompress", path, "-o", out), "cut.safetensors")
    assert sorted(tmp_path.iterdir()) == [path]


def test_altered(small: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "altered.safetensors", tmp_path / "out.safetensors"
    data = bytearray(small.read_bytes())
    data[len(data) // 2] ^= 4  # in a tensor: the header is far shorter
    path.write_bytes(data)
    fails_cleanly(tersor("inspect", path, "--verify"), "altered.safetensors")
    fails_cleanly(tersor("decompress", path, "-o", out), "altered.safetensors")
    assert sorted(tmp_path.iterdir()) == [path]


def test_pickle_that_is_no_state_dict(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    out = tmp_path / "out.safetensors"
    for name in ("list.pt", "junk.pt"):
        fails_cleanly(tersor("compress", tmp_path / name, "-o", out), name)
    assert not out.exists()


def test_compress_refuses_what_it_cannot_do(dense: Path, small: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "out.safetensors"
    fails_cleanly(tersor("compress", small, "-o", out), "compressed already")
    fails_cleanly(tersor("compress", dense, "-o", out, "--only", "nothing"), "no tensor")
    fails_cleanly(tersor("compress", dense), "-o OUT")
    fails_cleanly(tersor("compress", dense, "-o", tmp_path / "no" / "out.safetensors"))
    assert list(tmp_path.iterdir()) == []


def test_not_finite_weights_name_the_layer(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path, out = tmp_path / "nan.safetensors", tmp_path / "out.safetensors"
    weight = np.ones((4, 4))
    weight[1, 2] = np.nan
    container.write_file(path, {"deep.fc.weight": f32(weight)})
    fails_cleanly(tersor("compress", path, "-o", out), "deep.fc.weight")
    assert not out.exists()


def test_usage_errors_have_status_2() -> None:
    assert tersor("inspect").returncode == 2
    assert tersor("fly").returncode == 2


def test_missing_typer_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('none', name='typer')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = tersor("env", PYTHONPATH=path)
    fails_cleanly(done, "tersor[cli]")
