"""compress --lossless and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Fails, Run, bf16, f32

from tersor.io import container
from tersor.io.container import INDEX, Tensor
from tersor.io.safe_open import safe_open


def _tensors(seed: int) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    return {
        f"{seed}.weight": bf16(rng.normal(0, 0.02, (300, 200))),
        f"{seed}.norm": f32(rng.normal(1, 0.02, 300)),
        f"{seed}.steps": Tensor("I64", (), bytes(8)),
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.safetensors"
    container.write_file(path, _tensors(0), {"format": "pt"}, plain=True)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder of three shards, an index and a configuration."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    names = {}
    for i in range(3):
        shard = f"model-{i + 1:05}-of-00003.safetensors"
        container.write_file(folder / shard, _tensors(i), {"format": "pt"}, plain=True)
        names.update(dict.fromkeys(_tensors(i), shard))
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": names}, indent=2)
    (folder / INDEX).write_text(text)
    (folder / "config.json").write_text("{}")
    return folder


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_comes_back_byte_by_byte(model: Path, works: Run) -> None:
    small, back = model.with_name("s.safetensors"), model.with_name("b.safetensors")
    done = works("compress", "--lossless", model, "-o", small)
    assert "1 file" in done.stdout
    assert small.stat().st_size < 0.7 * model.stat().st_size
    works("decompress", small, "-o", back)
    assert back.read_bytes() == model.read_bytes()
    assert "F" not in works("inspect", small).stderr


def test_a_file_of_another_writer_comes_back_byte_by_byte(tmp_path: Path, works: Run) -> None:
    raw = np.random.default_rng(0).normal(size=3000).astype(np.float32).tobytes()
    header = {
        "x": {"shape": [1000], "dtype": "F32", "data_offsets": [8000, 12000]},
        "y": {"shape": [2000], "dtype": "F32", "data_offsets": [0, 8000]},
    }
    text = json.dumps(header).encode() + b"     "
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw)
    works("compress", "--lossless", path, "-o", tmp_path / "s.safetensors")
    works("decompress", tmp_path / "s.safetensors", "-o", tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == path.read_bytes()


def test_a_type_may_be_asked_for(model: Path, works: Run) -> None:
    small, back = model.with_name("s.safetensors"), model.with_name("b.safetensors")
    works("compress", "--lossless", model, "-o", small)
    works("decompress", small, "-o", back, "--dtype", "F32")
    with container.open(back) as file:
        assert file.tensors["0.weight"].dtype == "F32"


def test_shards_come_back_byte_by_byte(checkpoint: Path, works: Run) -> None:
    small, back = checkpoint.with_name("small"), checkpoint.with_name("back")
    works("compress", "--lossless", checkpoint, "-o", small)
    with container.open(small) as file:
        file.verify()
        assert set(file.tensors) == {name for i in range(3) for name in _tensors(i)}
        assert file.tensors["1.weight"].lossless
    works("decompress", small, "-o", back)
    assert _bytes(back) == _bytes(checkpoint)


def test_parts_make_the_same_folder(checkpoint: Path, works: Run) -> None:
    whole, parts = checkpoint.with_name("whole"), checkpoint.with_name("parts")
    works("compress", "--lossless", checkpoint, "-o", whole)
    for k in (2, 1):
        works("compress", "--lossless", checkpoint, "-o", parts, "--part", f"{k}/2")
    assert _bytes(parts) == _bytes(whole)


def test_torchrun_names_the_part(
    checkpoint: Path, works: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = checkpoint.with_name("out")
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        done = works("compress", "--lossless", checkpoint, "-o", out)
        assert "(1 file)" in done.stdout
    assert len(list(out.glob("*.safetensors"))) == 3


def test_a_rerun_takes_what_stands_and_is_whole(checkpoint: Path, works: Run) -> None:
    out = checkpoint.with_name("out")
    works("compress", "--lossless", checkpoint, "-o", out)
    expected = _bytes(out)
    first, second, _ = sorted(out.glob("*.safetensors"))
    first.unlink()
    damaged = bytearray(second.read_bytes())
    damaged[-1] ^= 1
    second.write_bytes(damaged)
    done = works("compress", "--lossless", checkpoint, "-o", out)
    assert "1 of them stood already" in done.stdout
    assert _bytes(out) == expected


def test_a_torch_checkpoint_becomes_a_lossless_file(tmp_path: Path, works: Run) -> None:
    torch = pytest.importorskip("torch")
    state = {"a": torch.randn(50, 400), "b": torch.zeros(3, dtype=torch.int16)}
    state["tied"] = state["a"]
    torch.save(state, tmp_path / "m.pt")
    works("compress", "--lossless", tmp_path / "m.pt", "-o", tmp_path / "s.safetensors")
    works("decompress", tmp_path / "s.safetensors", "-o", tmp_path / "b.safetensors")
    with container.open(tmp_path / "b.safetensors") as file:
        assert set(file.tensors) == set(state)
        assert file.tensors["tied"].bytes().tobytes() == state["a"].numpy().tobytes()


def test_mistakes_are_named(model: Path, fails: Fails) -> None:
    out = model.with_name("s.safetensors")
    assert "missing -o" in fails("compress", "--lossless", model)
    assert "--part and --base are for --lossless" in fails(
        "compress", model, "-o", out, "--part", "1/2"
    )
    for text in ("0/2", "3/2", "x", "1/0"):
        assert "--part" in fails("compress", "--lossless", model, "-o", out, "--part", text)
    out.write_bytes(b"")
    assert "exists already" in fails("compress", "--lossless", model, "-o", out)


def test_plain_leaves_dense_tensors_readable(model: Path, works: Run) -> None:
    stock = pytest.importorskip("safetensors.numpy")
    coded, plain = model.with_name("c.safetensors"), model.with_name("p.safetensors")
    works("compress", model, "-o", coded)
    works("compress", model, "-o", plain, "--plain")
    assert coded.stat().st_size < plain.stat().st_size
    assert {"0.norm", "0.steps"} < set(stock.load_file(plain))
    assert "0.norm" not in stock.load_file(coded)


# ---- Differences from a base


@pytest.fixture
def tuned(model: Path) -> Path:
    """The model after a little training: a tensor of another shape, one that is new."""
    rng = np.random.default_rng(7)
    tensors = _tensors(0)
    weight = np.frombuffer(bytearray(tensors["0.weight"].raw()), np.uint16).copy()
    changed = rng.random(weight.size) < 0.1
    weight[changed] ^= rng.integers(0, 4, int(changed.sum())).astype(np.uint16)
    tensors["0.weight"] = Tensor("BF16", (300, 200), weight)
    tensors["0.norm"] = f32(rng.normal(1, 0.02, 200))
    tensors["new"] = f32(rng.normal(1, 0.02, 50))
    path = model.with_name("tuned.safetensors")
    container.write_file(path, tensors, {"format": "pt"}, plain=True)
    return path


def test_what_differs_from_a_base_comes_back_with_it(
    model: Path, tuned: Path, works: Run, fails: Fails
) -> None:
    alone, small, back = (model.with_name(f"{n}.safetensors") for n in ("alone", "small", "back"))
    works("compress", "--lossless", tuned, "-o", alone)
    works("compress", "--lossless", tuned, "-o", small, "--base", model)
    assert small.stat().st_size < 0.5 * alone.stat().st_size
    with container.open(small) as file:
        assert {"0.weight_difference", "0.norm", "new"} <= set(file.tensors)
    works("decompress", small, "-o", back, "--base", model)
    assert back.read_bytes() == tuned.read_bytes()
    again = model.with_name("again.safetensors")
    assert "--base" in fails("decompress", small, "-o", again)
    assert "--base" in fails("decompress", small, "-o", again, "--base", model, "--dtype", "f32")
    line = fails("decompress", small, "-o", again, "--base", tuned)
    assert "'0.weight' is not the tensor that the difference was taken from" in line
    assert not again.exists()
    with pytest.raises(ValueError, match="differences"):
        safe_open(small)
    assert "--base" in fails("compress", model, "-o", again, "--base", model)


def test_a_tensor_that_is_called_a_difference_stays_one(model: Path, works: Run) -> None:
    odd, small, back = (model.with_name(f"{n}.safetensors") for n in ("odd", "small", "back"))
    tensors = {**_tensors(0), "0.weight_difference": _tensors(1)["1.weight"]}
    container.write_file(odd, tensors, {"format": "pt"}, plain=True)
    works("compress", "--lossless", odd, "-o", small, "--base", model)
    works("decompress", small, "-o", back, "--base", model)
    assert back.read_bytes() == odd.read_bytes()


def test_shards_with_a_base_stand_if_it_is_the_same(
    checkpoint: Path, tuned: Path, works: Run
) -> None:
    small, back = checkpoint.with_name("small"), checkpoint.with_name("back")
    options = ("compress", "--lossless", checkpoint, "-o", small, "--base")
    works(*options, checkpoint)
    assert "3 of them stood" in works(*options, checkpoint).stdout
    # The difference of the first shard alone is from a tensor that this base has otherwise.
    assert "of them stood" not in works(*options, tuned).stdout
    works(*options, checkpoint)
    works("decompress", small, "-o", back, "--base", checkpoint)
    assert _bytes(back) == _bytes(checkpoint)


@pytest.mark.parametrize("text", ["[]", "{", '{"0.weight":1}', '{"other":"00"}'])
def test_a_malformed_list_of_differences_is_refused(model: Path, text: str, fails: Fails) -> None:
    bad = model.with_name("bad.safetensors")
    tensors = {**_tensors(0), "0.weight_difference": f32(np.zeros(3))}
    container.write_file(bad, tensors, {"tersor.base": text, "tersor.source": ""})
    line = fails("decompress", bad, "-o", model.with_name("out.safetensors"), "--base", model)
    assert "tersor.base" in line
