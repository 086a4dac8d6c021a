"""Checkpoints of several files: reading, compressing, stopping and resuming, memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tersor
from tersor.cli.main import main
from tersor.codec.encode import decompress_weight
from tersor.io import container, shards
from tersor.io.container import INDEX, Tensor, TensorView
from tersor.io.layer_records import read_records


def make_checkpoint(folder: Path, count: int = 3, rows: int = 40, cols: int = 100) -> Path:
    """Shards as the stock library writes them, with two matrices, a bias and a norm each."""
    folder.mkdir(parents=True)
    names = {}
    rng = np.random.default_rng(3)
    for i in range(count):
        shard = f"model-{i + 1:05}-of-{count:05}.safetensors"
        weight = rng.standard_normal((rows, cols), np.float32)
        half = (weight.view(np.uint32) >> 16).astype(np.uint16)
        tensors = {
            f"{i}.a.weight": Tensor("F32", weight.shape, weight),
            f"{i}.b.weight": Tensor("BF16", weight.shape, half),
            f"{i}.bias": Tensor("F64", (cols,), rng.standard_normal(cols)),
            f"{i}.norm.weight": Tensor("F16", (cols,), np.ones(cols, np.float16)),
        }
        container.write_file(folder / shard, tensors, {"format": "pt"}, plain=True)
        names.update(dict.fromkeys(tensors, shard))
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder


def test_a_sharded_checkpoint_is_opened_as_one_file(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "in")
    for path in (folder, folder / INDEX):
        with tersor.open(path) as file:
            assert len(file.tensors) == 12
            assert list(file.tensors) == sorted(file.tensors)
            assert file.tensors["1.b.weight"].dtype == "BF16"
            assert file.file_bytes == sum(p.stat().st_size for p in folder.iterdir())
            assert not file.is_tersor


def test_compress_writes_shards_and_an_index(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "in")
    assert main(["compress", str(folder), "-o", str(tmp_path / "out")]) == 0
    with tersor.open(tmp_path / "out") as file, tersor.open(folder) as dense:
        file.verify()
        assert file.is_tersor
        assert file.metadata["format"] == "pt"
        records = read_records(file.metadata, file.path)
        assert [records.of(f"2.{n}.weight").dtype for n in "ab"] == ["F32", "BF16"]
        assert len(file.tensors) == 12
        for name, view in dense.tensors.items():
            if not name.endswith(("a.weight", "b.weight")):
                kept = file.tensors[name]
                assert (kept.dtype, kept.shape) == (view.dtype, view.shape)
                assert kept.bytes().tobytes() == view.bytes().tobytes()
                continue
            got = decompress_weight(file.tensors[name + "_blob"].layer())
            raw = view.bytes().view("<u4" if view.dtype == "F32" else "<u2").astype(np.uint32)
            want = (raw if view.dtype == "F32" else raw << 16).view(np.float32).reshape(got.shape)
            assert np.abs(got - want).mean() < 0.15
        rows = file.tensors["0.a.weight_blob"].rows(7, 5, threads=2)
        whole = decompress_weight(file.tensors["0.a.weight_blob"].layer())
        assert np.array_equal(decompress_weight(rows), whole[7:12])
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert {p.name for p in (tmp_path / "out").iterdir()} == {INDEX, *index["weight_map"].values()}
    assert main(["inspect", "--verify", str(tmp_path / "out" / INDEX)]) == 0


def _halve(view: TensorView) -> dict[str, Tensor]:
    half = view.bytes()[: view.nbytes // 2]
    return {view.name: Tensor("U8", half.shape, half)}


def _copy(view: TensorView) -> dict[str, Tensor]:
    return {view.name: Tensor(view.dtype, view.shape, view.bytes())}


class StopError(Exception):
    """What ends a run early."""


def test_who_stops_leaves_the_old_checkpoint_and_a_rerun_resumes(tmp_path: Path) -> None:
    source = tersor.open(make_checkpoint(tmp_path / "in"))
    out = tmp_path / "out"
    shards.write_shards(source, out, _halve, "old")
    before = (out / INDEX).read_text()

    def stops(view: TensorView) -> dict[str, Tensor]:
        if view.name.startswith("2."):
            raise StopError
        return _copy(view)

    with pytest.raises(StopError):
        shards.write_shards(source, out, stops, "new", threads=2)
    assert (out / INDEX).read_text() == before
    tersor.open(out).verify()
    assert len(list(out.iterdir())) == 3 + 1 + 2

    encoded = []

    def resumes(view: TensorView) -> dict[str, Tensor]:
        encoded.append(view.name)
        return _copy(view)

    shards.write_shards(source, out, resumes, "new")
    assert {name[0] for name in encoded} == {"2"}
    assert len(list(out.iterdir())) == 3 + 1  # what the old index named is gone
    with tersor.open(out) as file:
        file.verify()
        assert file.tensors.keys() == source.tensors.keys()
    shards.write_shards(source, tmp_path / "again", resumes, "new", threads=2)
    for path in out.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_a_damaged_shard_is_made_anew(tmp_path: Path) -> None:
    source = tersor.open(make_checkpoint(tmp_path / "in"))
    shards.write_shards(source, tmp_path / "out", _halve, "")
    shard = next((tmp_path / "out").glob("*.safetensors"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    shards.write_shards(source, tmp_path / "out", _halve, "")
    assert shard.read_bytes() == whole


MALFORMED = {
    "no JSON": ("{", "Expecting"),
    "no map": ('{"metadata": {}}', "no weight_map"),
    "a list": ("[]", "no weight_map"),
    "a path": ('{"weight_map": {"0.bias": "../model.safetensors"}}', "beside it"),
    "an absolute path": ('{"weight_map": {"0.bias": "/etc/x.safetensors"}}', "beside it"),
    "no text": ('{"weight_map": {"0.bias": 1}}', "beside it"),
    "a name twice": ('{"weight_map": {"a": "b.safetensors", "a": "b.safetensors"}}', "twice"),
    "100,000 levels": ("[" * 100_000, "recursion"),
    "a tensor that is not there": (
        '{"weight_map": {"x": "model-00001-of-00003.safetensors"}}',
        "not those of the index",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_index_is_refused(tmp_path: Path, name: str) -> None:
    text, message = MALFORMED[name]
    folder = make_checkpoint(tmp_path / "in")
    (folder / INDEX).write_text(text)
    with pytest.raises(tersor.FormatError, match=message):
        tersor.open(folder)


def test_max_bytes_bounds_what_decoding_may_allocate(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "in")
    assert main(["compress", str(folder), "-o", str(tmp_path / "out")]) == 0
    file = tersor.open(tmp_path / "out", max_bytes=1000)
    with pytest.raises(tersor.FormatError, match="larger than allowed"):
        file.tensors["0.a.weight_blob"].layer()
    with pytest.raises(tersor.FormatError, match="larger than allowed"):
        file.tensors["0.a.weight_blob"].rows(0, 1)


_MEASURE = """
import resource, sys
from tersor.cli import main as cli
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert cli.main(["compress", sys.argv[1], "-o", sys.argv[2], "--density", "0.05"]) == 0
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
def test_memory_follows_the_largest_tensor_and_not_the_checkpoint(tmp_path: Path) -> None:
    # What a tensor of 2 MB takes while it is clustered and coded is a small multiple of it.
    folder = make_checkpoint(tmp_path / "in", count=12, rows=512, cols=1024)
    total = sum(p.stat().st_size for p in folder.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(folder), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
    )
    peak = int(done.stdout.split()[-1])
    assert total > 36 << 20
    assert peak < total * 3 // 4, f"{peak >> 20} MB for {total >> 20} MB"
