"""What compress writes: selection, targets, ties, growth, memory."""

from __future__ import annotations

import copy
import json
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Fails, Run, bf16, f32
from safetensors.numpy import load_file

import tersor
from tersor.cli.compress import CompressOptions, compress
from tersor.cli.decompress import DecompressOptions, decompress
from tersor.codec.encode import decompress_weight
from tersor.config import METHODS
from tersor.io import container
from tersor.io.container import Tensor
from tersor.io.layer_records import read_records
from tersor.reporting.file_report import report


def test_it_tells_what_it_selects_and_writes_it(dense: Path, small: Path, works: Run) -> None:
    with container.open(small) as file:
        assert file.is_tersor
        compressed = {name for name, tensor in file.tensors.items() if tensor.compressed}
        assert compressed == {"fc.weight_blob", "conv.weight_blob", "embedding.weight_blob"}
        assert {"fc.bias", "norm.weight", "steps"} <= set(file.tensors)
        assert file.metadata == {"format": "pt"}
    done = works("compress", dense, "--dry-run", "--density", "0.5")
    verbs = {"fc.weight": "compress", "embedding.weight": "compress", "steps": "leave"}
    assert {name: done.verbs()[name] for name in verbs} == verbs
    assert f"{small.stat().st_size:,} bytes" in done.stdout  # a dry run tells the real size


@pytest.mark.parametrize("target", [("--target-ratio", "1.4"), ("--target-bytes", "3500")])
def test_it_meets_a_target(dense: Path, target: tuple[str, str], works: Run, fails: Fails) -> None:
    out = dense.with_name("out.safetensors")
    works("compress", dense, "-o", out, *target)
    with container.open(dense) as file:
        dense_bytes = sum(tensor.nbytes for tensor in file.tensors.values())
    limit = dense_bytes / 1.4 if target[0] == "--target-ratio" else 3500
    assert 0.9 * limit <= out.stat().st_size <= limit
    line = fails("compress", dense, "--dry-run", "--target-bytes", 9)
    assert " 9" in line or "=9" in line
    both = fails("compress", dense, "--dry-run", "--target-bytes", 9, "--target-ratio", 2)
    assert "give one of" in both


def test_a_search_writes_one_file(dense: Path, works: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    write = container.write_file

    def count(path: Path, *arguments: object, **options: object) -> None:
        written.append(path)
        write(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(container, "write_file", count)
    out = dense.with_name("out.safetensors")
    works("compress", dense, "-o", out, "--target-ratio", "1.4")
    works("compress", dense, "--dry-run", "--target-ratio", "1.4")
    assert written == [out]


def test_the_smallest_entropy_writes_the_same_weights(
    dense: Path, works: Run, fails: Fails
) -> None:
    out, usual = dense.with_name("out.safetensors"), dense.with_name("usual.safetensors")
    works("compress", dense, "-o", usual, "--density", 0.3)
    works("compress", dense, "-o", out, "--density", 0.3, "--entropy", "smallest")
    assert out.stat().st_size < usual.stat().st_size
    works("verify", out)
    with container.open(out) as a, container.open(usual) as b:
        assert {view.layer().entropy for view in a.tensors.values() if view.compressed} == {
            "smallest"
        }
        for name, view in b.tensors.items():
            other = a.tensors[name]
            if view.compressed:
                codes = decompress_weight(other.layer()), decompress_weight(view.layer())
                assert np.array_equal(*codes)
            else:
                assert other.bytes().tobytes() == view.bytes().tobytes()
    line = fails("compress", dense, "--dry-run", "--entropy", "best")
    assert line == "tersor: --entropy 'best' is none of huffman, smallest"


def test_methods_go_by_name(dense: Path, works: Run, fails: Fails) -> None:
    outputs = {m: works("compress", dense, "--dry-run", "--method", m).stdout for m in METHODS}
    assert outputs.pop("integer") == outputs["uniform"]  # other values, the same bytes
    assert len(set(outputs.values())) == len(outputs)
    line = fails("compress", dense, "--dry-run", "--method", "magic")
    assert line == "tersor: --method 'magic' is none of kmeans, uniform, integer, ecsq"


def test_what_it_cannot_do_is_refused(dense: Path, small: Path, fails: Fails) -> None:
    out = dense.with_name("out.safetensors")
    line = fails("compress", small, "-o", out)
    assert f"{small}: already compressed" in line
    assert "tersor decompress" in line
    assert "matches no tensor" in fails("compress", dense, "-o", out, "--only", "nothing")
    near = fails("compress", dense, "-o", out, "--skip", "embeding.*")
    assert "--skip 'embeding.*' matches no tensor; there are embedding" in near
    assert "no tensor to compress" in fails("compress", dense, "-o", out, "--min-size", 10_000)
    assert "missing -o/--output (or use --dry-run)" in fails("compress", dense)
    assert not out.exists()


def test_threads_do_not_change_the_file(dense: Path, works: Run) -> None:
    outputs = [dense.with_name(f"{n}.safetensors") for n in (1, 3)]
    for threads, out in zip((1, 3), outputs, strict=True):
        works("compress", dense, "-o", out, "--threads", threads)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_a_tensor_that_would_grow_is_left(tmp_path: Path, works: Run) -> None:
    rng = np.random.default_rng(0)
    tensors = {"tiny.weight": f32(rng.normal(size=(4, 8, 3))), "fc.weight": f32(np.eye(64))}
    container.write_file(tmp_path / "m.safetensors", tensors)
    for extra in ([], ["--target-ratio", "8"]):
        out = tmp_path / "out.safetensors"
        done = works("compress", tmp_path / "m.safetensors", "-o", out, "--force", *extra)
        assert done.verbs() == {"tiny.weight": "leave", "fc.weight": "compress"}
        assert "would grow" in done.stdout
        file = container.open(out)
        assert set(file.tensors) == {"tiny.weight", "fc.weight_blob"}
        assert (
            file.tensors["tiny.weight"].bytes().tobytes() == tensors["tiny.weight"].raw().tobytes()
        )


def test_the_type_of_each_weight_is_recorded(tmp_path: Path, works: Run) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(30, 40))
    tensors = {
        "a.weight": bf16(weight),
        "b.weight": Tensor("F16", weight.shape, weight.astype(np.float16)),
        "c.weight": Tensor("F64", weight.shape, weight),
        "a.bias": bf16(rng.normal(size=30)),
        "freqs.weight": Tensor("C64", (8, 8), np.ones((8, 8), np.complex64)),
    }
    container.write_file(tmp_path / "m.safetensors", tensors)
    done = works("compress", tmp_path / "m.safetensors", "-o", tmp_path / "c.safetensors")
    assert done.verbs()["freqs.weight"] == "leave"
    assert "complex" in done.stdout
    with container.open(tmp_path / "c.safetensors") as file:
        records = read_records(file.metadata, file.path)
        assert [records.of(f"{n}.weight").dtype for n in "abc"] == ["BF16", "F16", "F64"]
    works("decompress", tmp_path / "c.safetensors", "-o", tmp_path / "back.safetensors")
    with container.open(tmp_path / "back.safetensors") as back:
        for name, tensor in tensors.items():
            assert (back.tensors[name].dtype, back.tensors[name].shape) == (
                tensor.dtype,
                tensor.shape,
            )
        dense_bytes = (tmp_path / "m.safetensors").stat().st_size
        assert abs(back.file_bytes - dense_bytes) < 1000


# ---- Settings from a file


def _config(dense: Path, **content: object) -> Path:
    path = dense.with_name("config.json")
    path.write_text(json.dumps(content))
    return path


def test_a_config_gives_each_layer_its_settings(dense: Path, works: Run) -> None:
    config = _config(
        dense,
        linear={"codebook_size": 3, "precision": "low"},
        conv={"density": 0.25},
        overrides={"embedding": {"codebook_size": 1}},
    )
    out = dense.with_name("out.safetensors")
    works("compress", dense, "-o", out, "--config", config, "--only", "*")
    with container.open(out) as file:
        rows = {row.name: row for row in report(file).rows}
        records = read_records(file.metadata, file.path)
    assert rows["fc.weight"].weight_bits_pq == 2
    assert rows["embedding.weight"].weight_bits_pq == 1
    assert rows["conv.weight"].density == pytest.approx(0.25, abs=0.01)
    assert records.of("fc.weight").precision == "low"
    assert records.of("conv.weight").precision == "high"


def test_a_config_leaves_layers_and_has_targets(dense: Path, works: Run, fails: Fails) -> None:
    out = dense.with_name("out.safetensors")
    done = works("compress", dense, "-o", out, "--config", _config(dense, overrides={"fc": None}))
    assert done.verbs()["fc.weight"] == "leave"
    assert "--config leaves it" in done.stdout
    target = _config(dense, target_bytes=3500)
    works("compress", dense, "-o", out, "--force", "--config", target)
    assert 0.9 * 3500 <= out.stat().st_size <= 3500


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        ({"overrides": {"fcc": None}}, [], "overrides: 'fcc' matches no tensor; there are fc"),
        ({"max_drop": 0.1}, [], "max_drop needs the model: use tersor.compress_"),
        ({"density": 0.1}, [], "density needs the model"),
        ({}, ["--bits", 3], "--bits cannot be combined with --config"),
        ({}, ["--target-ratio", 3], "--target-ratio cannot be combined with --config"),
        ({"linaer": {}}, [], "config.json"),
    ],
)
def test_a_config_that_cannot_be_followed_is_refused(
    content: dict[str, object], arguments: list[object], words: str, dense: Path, fails: Fails
) -> None:
    line = fails("compress", dense, "--dry-run", "--config", _config(dense, **content), *arguments)
    assert words in line


# ---- Ties


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    """A dense file that tersor.save wrote, with a tied weight, a tied vector and coded ones."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    tersor.save(_tied_model(), tmp_path / "tied.safetensors")
    return tmp_path / "tied.safetensors"


def _tied_model() -> Any:
    from torch import nn

    model = nn.Sequential(
        nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 64), nn.BatchNorm1d(64)
    )
    model[2].weight = model[0].weight
    model[3].weight = model[1].weight
    return model


def test_ties_survive_both_ways(tied: Path, works: Run) -> None:
    torch = pytest.importorskip("torch")
    small, back = tied.with_name("small.safetensors"), tied.with_name("back.safetensors")
    # Coded vectors do not make it compressed.
    done = works("compress", tied, "-o", small, "--bits", 4)
    assert done.verbs()["0.weight"] == "compress"
    with container.open(small) as file:
        layers = [n for n, t in file.tensors.items() if t.compressed and n.endswith("weight_blob")]
        assert layers == ["0.weight_blob"]
        assert file.tensors["1.weight"].lossless
    model = tersor.load(small, _tied_model())
    works("decompress", small, "-o", back)
    stock = load_file(back)
    expected = _tied_model().state_dict()
    assert {n: a.shape for n, a in stock.items()} == {
        n: tuple(t.shape) for n, t in expected.items()
    }
    assert np.array_equal(stock["0.weight"], stock["2.weight"])
    assert set(load_file(small)) == {"tersor"}  # it is all small
    again = tersor.load(back, _tied_model())
    x = torch.randn(5, 64)
    assert torch.allclose(model.eval()(x), again.eval()(x), atol=1e-5)
    assert torch.equal(again.state_dict()["1.weight"], torch.ones(64))


def test_a_tied_model_that_is_compressed_already_is_decompressed_under_all_names(
    tmp_path: Path, works: Run
) -> None:
    pytest.importorskip("torch")
    tersor.save(tersor.compress_(_tied_model()), tmp_path / "c.safetensors")
    works("decompress", tmp_path / "c.safetensors", "-o", tmp_path / "back.safetensors")
    names = set(load_file(tmp_path / "back.safetensors"))
    assert names == set(_tied_model().state_dict())
    assert container.open(tmp_path / "back.safetensors").metadata == {"format": "pt"}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Linear", (32, 32)),
        ("Conv1d", (16, 16, 3)),
        ("Conv2d", (16, 16, 3)),
        ("Conv3d", (8, 8, 3)),
        ("ConvTranspose2d", (16, 16, 3)),
        ("Embedding", (64, 32)),
        ("MultiheadAttention", (32, 4)),
        ("LSTM", (32, 32)),
    ],
)
def test_what_it_writes_goes_into_the_model(
    name: str, arguments: tuple[int, ...], tmp_path: Path, works: Run
) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(getattr(torch.nn, name)(*arguments), torch.nn.Linear(32, 32))
    torch.save(model.state_dict(), tmp_path / "m.pt")
    works("compress", tmp_path / "m.pt", "-o", tmp_path / "c.safetensors", "--bits", 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers that run dense
        loaded: Any = tersor.load(tmp_path / "c.safetensors", copy.deepcopy(model))
    works("decompress", tmp_path / "c.safetensors", "-o", tmp_path / "b.safetensors")
    dense = load_file(tmp_path / "b.safetensors")
    assert set(dense) == set(model.state_dict())
    for key, value in tersor.decompress_(loaded).state_dict().items():
        assert np.array_equal(value.numpy(), dense[key])
        assert np.abs(dense[key] - model.state_dict()[key].numpy()).max() < 0.1


# ---- Memory


def _peak(work: object, *arguments: object) -> int:
    """The most that Python and numpy held at once while a function ran."""
    tracemalloc.start()
    try:
        work(*arguments)  # type: ignore[operator]
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_tensors_stand_in_memory_one_at_a_time(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    size = 1 << 18
    weights = {f"{i:02}.weight": rng.standard_normal((512, 512), np.float32) for i in range(16)}
    others = {f"{i:02}.table": np.zeros((512, 1024), np.float32) for i in range(16)}
    source = tmp_path / "m"
    if kind == "torch":
        torch = pytest.importorskip("torch")
        state = {n: torch.from_numpy(w).bfloat16() for n, w in weights.items()}
        torch.save({**state, **{n: torch.from_numpy(o) for n, o in others.items()}}, source)
        del state
    else:
        half = {n: bf16(w) for n, w in weights.items()}
        container.write_file(source, {**half, **{n: f32(o) for n, o in others.items()}})
        del half
    del weights, others
    dense_bytes = 16 * (2 * size + 4 * 2 * size)
    assert source.stat().st_size >= dense_bytes
    options = CompressOptions(threads=1, density=0.1)
    small, back = tmp_path / "s.safetensors", tmp_path / "b.safetensors"
    # Less than one copy of the weights as float32, of which there are copies of one at a time.
    assert _peak(compress, source, small, options) < 16 * 4 * size
    # Less than the weights in their own type and what decoding one takes (some twenty bytes a
    # weight): tensors are written one at a time.
    assert _peak(decompress, small, back, DecompressOptions(threads=1)) < (16 * 2 + 24) * size
    assert container.open(back).file_bytes >= dense_bytes


def test_a_preset_stands_for_settings(
    dense: Path, tmp_path: Path, works: Run, fails: Fails
) -> None:
    out = tmp_path / "out.safetensors"
    works("compress", dense, "-o", out, "--preset", "balanced")
    with container.open(out) as file:
        layer = file.tensors["fc.weight_blob"].layer()
    assert 63 < layer.values.size <= 127
    assert "--bits cannot be combined" in fails(
        "compress", dense, "-o", out, "--force", "--preset", "balanced", "--bits", 5
    )


def test_lossless_takes_no_settings(dense: Path, tmp_path: Path, fails: Fails) -> None:
    out = tmp_path / "out.safetensors"
    for option in (["--density", 0.5], ["--preset", "balanced"], ["--only", "fc*"], ["--plain"]):
        message = fails("compress", "--lossless", dense, "-o", out, *option)
        assert f"{option[0]} is not for --lossless" in message


def test_bits_for_each_element_are_a_size(
    dense: Path, tmp_path: Path, works: Run, fails: Fails
) -> None:
    generator = np.random.default_rng(1)
    large = tmp_path / "large.safetensors"
    container.write_file(large, {"fc.weight": f32(generator.normal(size=(200, 300)))})
    out = tmp_path / "out.safetensors"
    works("compress", large, "-o", out, "--target-bpw", 3)
    assert 0.9 * 3 / 8 < out.stat().st_size / 60_000 <= 3 / 8
    assert "give one of --target-bytes" in fails(
        "compress", large, "-o", out, "--force", "--target-bpw", 3, "--target-ratio", 4
    )


def test_quiet_prints_nothing_and_json_nothing_else(
    dense: Path, tmp_path: Path, works: Run
) -> None:
    for i, way in enumerate(([], ["--target-bytes", 2500], ["--lossless"])):
        done = works("compress", dense, "-o", tmp_path / f"quiet{i}.safetensors", "--quiet", *way)
        assert done.stdout == done.stderr == ""
        done = works("compress", dense, "-o", tmp_path / f"json{i}.safetensors", "--json", *way)
        assert json.loads(done.stdout)
    assert json.loads(done.stdout)["files"] == 1  # of --lossless


def test_a_preset_takes_embeddings_too(tmp_path: Path, works: Run) -> None:
    table = np.random.default_rng(1).normal(size=(500, 64))
    container.write_file(tmp_path / "m.safetensors", {"wte.weight": f32(table)})
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"embedding": {"codebook_size": 3}}))
    works(
        "compress", tmp_path / "m.safetensors", "-o", tmp_path / "o.safetensors", "--config", config
    )
    with container.open(tmp_path / "o.safetensors") as file:
        assert file.tensors["wte.weight_blob"].layer().values.size == 3
