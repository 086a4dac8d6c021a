"""Torch tensors without loss, alone and in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tersor
from tersor.codec.blob import SUFFIX
from tersor.io import container
from tersor.io.container import Tensor

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from tersor.io.lossless import decode_tensor, encode_tensor  # noqa: E402
from tersor.io.state_dict import DTYPES  # noqa: E402


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
def test_every_type_comes_back(dtype: torch.dtype) -> None:
    raw = torch.from_numpy(np.random.default_rng(0).integers(0, 256, 40000, np.uint8))
    if dtype is torch.bool:
        raw &= 1
    for tensor in (raw.view(dtype), raw.view(dtype).reshape(50, -1).t(), raw.view(dtype)[:0]):
        back = decode_tensor(encode_tensor(tensor, threads=2))
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
        assert bits(back) == bits(tensor)


def test_bits_that_are_no_numbers_come_back() -> None:
    words = [0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000, 0x00000001, 0x7F800000, 0xFF800000]
    tensor = torch.from_numpy(np.array(words * 500, np.uint32).view(np.float32))
    assert bits(decode_tensor(encode_tensor(tensor))) == bits(tensor)


def test_gaussian_layers_take_two_thirds() -> None:
    tensor = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0)) * 0.02
    assert encode_tensor(tensor.bfloat16()).nbytes < 0.66 * 2 * tensor.numel()
    assert encode_tensor(tensor).nbytes < 0.83 * 4 * tensor.numel()
    assert encode_tensor(tensor.to(torch.float8_e5m2)).nbytes < 0.70 * tensor.numel()


def _model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Embedding(500, 64), torch.nn.LayerNorm(64), torch.nn.Linear(64, 64).bfloat16()
    )


def test_a_dense_model_is_saved_so_and_loads_bit_by_bit(tmp_path: Path) -> None:
    model = _model()
    path, plain = tmp_path / "m.safetensors", tmp_path / "p.safetensors"
    tersor.save(model, path, metadata={"format": "pt"})
    tersor.save(model, plain, plain=True)
    assert path.stat().st_size < 0.85 * plain.stat().st_size
    state = model.state_dict()
    for loaded in (tersor.load(path).tensors, safetensors_torch.load_file(plain)):
        assert loaded.keys() == state.keys()
        assert all(bits(loaded[name]) == bits(value) for name, value in state.items())
    filled = tersor.load(path, _model())
    assert all(bits(v) == bits(state[n]) for n, v in filled.state_dict().items())
    with container.open(path) as file:
        assert file.metadata["format"] == "pt"
        assert set(file.tensors) == set(state)


def test_files_are_read_lazily_and_by_rows(tmp_path: Path) -> None:
    model = _model()
    tersor.save(model, tmp_path / "m.safetensors")
    with tersor.open(tmp_path / "m.safetensors") as file:
        view = file.tensors["0.weight"]
        assert view.lossless
        assert not view.compressed
        assert (view.dtype, view.shape) == ("F32", (500, 64))
        assert view.nbytes < view.dense_bytes == 500 * 64 * 4
        assert view.stored_name == "0.weight" + SUFFIX
        assert view.stored().nbytes == view.nbytes
        assert view.bytes().tobytes() == bits(model[0].weight.detach())
        assert view.row_bytes(7, 3).tobytes() == bits(model[0].weight.detach()[7:10])
        assert view.needed_bytes() == view.nbytes + view.dense_bytes
        view.release()
        norm = file.tensors["1.weight"]  # constant
        assert norm.nbytes < 40


def test_rows_of_plain_tensors_are_views(tmp_path: Path) -> None:
    raw = np.arange(24, dtype=np.uint8)
    container.write_file(tmp_path / "m.safetensors", {"x": Tensor("U8", (6, 4), raw)})
    view = container.open(tmp_path / "m.safetensors").tensors["x"]
    assert view.row_bytes(2, 2).tolist() == list(range(8, 16))
    with pytest.raises(ValueError, match="no rows"):
        view.row_bytes(5, 2)


def test_a_bound_on_memory_counts_what_is_decoded(tmp_path: Path) -> None:
    raw = np.zeros(1 << 20, np.uint8)
    tensor = Tensor("U8", raw.shape, raw).coded()
    container.write_file(tmp_path / "m.safetensors", {"x" + SUFFIX: tensor})
    with pytest.raises(tersor.FormatError, match="more than"):
        tersor.load(tmp_path / "m.safetensors", max_bytes=1 << 20)
    assert not tersor.load(tmp_path / "m.safetensors", max_bytes=1 << 21).tensors["x"].any()


def test_one_tensor_in_both_forms_is_refused(tmp_path: Path) -> None:
    raw = np.zeros(64, np.uint8)
    tensor = Tensor("U8", raw.shape, raw)
    container.write_file(tmp_path / "m.safetensors", {"x": tensor, "x" + SUFFIX: tensor.coded()})
    with pytest.raises(tersor.FormatError, match="stored twice"):
        container.open(tmp_path / "m.safetensors")


def test_damage_names_the_tensor(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    tensor = Tensor("F32", raw.shape, raw).coded()
    path = tmp_path / "m.safetensors"
    container.write_file(path, {"x" + SUFFIX: tensor}, plain=True)
    data = bytearray(path.read_bytes())
    at = data.index(b"TSR") + 5
    data[at] = 9
    path.write_bytes(data)
    with pytest.raises(tersor.FormatError, match="x_blob: lossless blob"):
        container.open(path)


def test_a_tensor_named_like_a_blob_stays_as_it_is(tmp_path: Path) -> None:
    model = torch.nn.Module()
    model.register_buffer("a" + SUFFIX, torch.zeros(5000))
    model.register_buffer("a", torch.zeros(5000))
    tersor.save(model, tmp_path / "m.safetensors")
    loaded = tersor.load(tmp_path / "m.safetensors").tensors
    assert loaded.keys() == {"a", "a" + SUFFIX}
