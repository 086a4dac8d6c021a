"""The look-alike of ``safetensors.safe_open``, beside the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tersor

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The same model without loss and as the stock library has it."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(300, 64), torch.nn.Linear(64, 64).bfloat16(), torch.nn.BatchNorm1d(64)
    )
    paths = tmp_path / "m.safetensors", tmp_path / "p.safetensors"
    for path, plain in zip(paths, (False, True), strict=True):
        tersor.save(model, path, metadata={"format": "pt"}, plain=plain)
    return paths


def test_it_reads_what_the_stock_library_reads(files: tuple[Path, Path]) -> None:
    ours, stock = files
    with (
        tersor.safe_open(ours, framework="pt", device="cpu") as file,
        safetensors.safe_open(stock, framework="pt") as other,
    ):
        assert file.keys() == sorted(other.keys())
        assert set(file.offset_keys()) == set(file.keys())
        assert file.metadata() == other.metadata() == {"format": "pt"}
        for name in file.keys():  # noqa: SIM118  not a mapping
            tensor = file.get_tensor(name)
            assert tensor.dtype == other.get_tensor(name).dtype
            assert torch.equal(tensor, other.get_tensor(name))
        assert list(file.get_tensors()) == file.offset_keys()


@pytest.mark.parametrize(
    "index",
    [
        slice(3, 7),
        slice(None),
        slice(-5, None),
        (slice(0, 2), slice(1, 3)),
        (slice(9, 9),),
        (slice(None), 5),
        slice(0, 10, 2),
        4,
    ],
    ids=str,
)
def test_parts_are_those_of_the_tensor(files: tuple[Path, Path], index: Any) -> None:
    for path in files:
        with tersor.safe_open(path) as file:
            part = file.get_slice("0.weight")
            assert part.get_shape() == [300, 64]
            assert part.get_dtype() == "F32"
            assert torch.equal(part[index], file.get_tensor("0.weight")[index])
            count = file.get_slice("2.num_batches_tracked")
            assert count[...].item() == 0


def test_what_it_does_not_read_is_told(files: tuple[Path, Path], tmp_path: Path) -> None:
    with tersor.safe_open(files[0]) as file, pytest.raises(KeyError, match="no tensor 'x'"):
        file.get_tensor("x")
    with pytest.raises(ValueError, match="is not 'pt'"):
        tersor.safe_open(files[0], framework="np")
    tersor.save(tersor.compress_(torch.nn.Sequential(torch.nn.Linear(64, 64))), tmp_path / "c.st")
    with pytest.raises(ValueError, match="compressed layer"):
        tersor.safe_open(tmp_path / "c.st")


def test_loaders_of_the_stock_library_read_it_within_the_patch(files: tuple[Path, Path]) -> None:
    from safetensors.torch import load_file

    ours, stock = files
    expected = load_file(stock)
    assert set(load_file(ours)) != set(expected)  # it does not know these tensors
    with tersor.patch_safetensors():
        loaded = load_file(ours)
        assert load_file(stock).keys() == expected.keys()
        with safetensors.safe_open(stock, framework="np") as file:
            assert set(file.keys()) == set(expected)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert set(load_file(ours)) != set(expected)


def test_the_patch_is_taken_back_after_an_error() -> None:
    original = safetensors.safe_open
    patched = tersor.patch_safetensors()
    patched.__enter__()
    assert safetensors.safe_open is not original
    error = KeyError()
    assert not patched.__exit__(KeyError, error, None)
    assert safetensors.safe_open is original
