"""A state_dict as the tensors of a file: every type, ties, and what is no tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tersor
from tersor.io import container
from tersor.io.aliases import KEY
from tersor.io.state_dict import DTYPES, file_tensors, storage_key, to_torch


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (6,), (2, 3)], ids=str)
def test_every_type_comes_back_bit_by_bit(
    dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path
) -> None:
    raw = torch.arange(6 * dtype.itemsize, dtype=torch.uint8)
    value = (raw > 3).to(dtype) if dtype == torch.bool else raw.view(dtype)
    value = value.reshape(shape) if shape else value[0]
    tensors, metadata = file_tensors({"x": value})
    container.write_file(tmp_path / "f", tensors, metadata)
    back = to_torch(container.open(tmp_path / "f").tensors["x"])
    assert (back.dtype, back.shape) == (value.dtype, value.shape)
    assert _bytes(back) == _bytes(value)


@pytest.mark.parametrize(
    "value",
    [
        (torch.arange(6).reshape(2, 3) + 1j).to(torch.complex64).mT,
        torch.tensor([1 + 2j, 3 - 4j]).conj(),
        torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
    ],
    ids=["transposed", "conjugate view", "negative view"],
)
def test_a_lazy_view_is_saved_as_the_numbers_that_it_shows(value: torch.Tensor) -> None:
    tensors, _ = file_tensors({"x": value})
    back = torch.from_numpy(tensors["x"].raw()).view(value.dtype).reshape(value.shape)
    assert torch.equal(back, value)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2)], ids=str)
def test_a_tensor_without_elements_comes_back(shape: tuple[int, ...], tmp_path: Path) -> None:
    container.write_file(tmp_path / "f", *file_tensors({"x": torch.empty(shape)}))
    back = to_torch(container.open(tmp_path / "f").tensors["x"])
    assert (back.shape, back.dtype) == (shape, torch.float32)


@pytest.mark.parametrize("shape", [(0,), (1,), (1, 1)], ids=str)
def test_a_tensor_of_one_element_may_have_any_stride(shape: tuple[int, ...]) -> None:
    value = torch.ones(()).as_strided(shape, (0,) * len(shape))
    tensors, _ = file_tensors({"x": value})
    assert (tensors["x"].shape, tensors["x"].raw().nbytes) == (shape, 4 * value.numel())


def test_models_with_buffers_of_rare_types_are_saved_and_loaded(tmp_path: Path) -> None:
    class Rotary(nn.Module):
        def __init__(self, fill: float) -> None:
            super().__init__()
            frequencies = torch.full((4,), complex(fill, -fill), dtype=torch.complex64)
            self.register_buffer("frequencies", frequencies)
            self.register_buffer("scale", torch.full((4,), fill).to(torch.float8_e4m3fn))
            self.register_buffer("counts", torch.full((4,), int(fill), dtype=torch.uint16))

    tersor.save(Rotary(2.0), tmp_path / "f")
    loaded: Any = tersor.load(tmp_path / "f", Rotary(1.0))
    assert loaded.frequencies.tolist() == [complex(2, -2)] * 4
    assert loaded.scale.float().tolist() == [2.0] * 4
    assert loaded.counts.tolist() == [2] * 4


class _Settings(nn.Module):
    def __init__(self, extra: object) -> None:
        super().__init__()
        self.extra = extra

    def get_extra_state(self) -> object:
        return self.extra

    def set_extra_state(self, state: object) -> None:
        self.extra = state


@pytest.mark.parametrize("extra", [{"a": 1}, [1], "text", b"bytes"], ids=repr)
def test_extra_state_that_is_no_tensor_is_named_with_the_cure(
    extra: object, tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Linear(2, 2), _Settings(extra))
    with pytest.raises(ValueError, match=r"1\._extra_state: .*get_extra_state\(\) return a tensor"):
        tersor.save(model, tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


def test_extra_state_that_is_a_tensor_is_saved() -> None:
    tensors, _ = file_tensors(_Settings(torch.arange(3)).state_dict())
    assert tensors["_extra_state"].dtype == "I64"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(3, device="meta"), "meta device"),
        (torch.ones(3, 3).to_sparse(), "sparse_coo"),
        (torch.ones(3, dtype=torch.complex128), "complex128"),
    ],
    ids=["meta", "sparse", "complex128"],
)
def test_what_cannot_be_saved_is_named(value: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^deep\.buffer: .*{message}"):
        file_tensors({"deep.buffer": value})


class _Wrapper(torch.Tensor):
    """A subclass without storage of its own: the address of its data is 0."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> _Wrapper:
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = [a.inner if isinstance(a, cls) else a for a in args]
        return func(*plain, **(kwargs or {}))


def test_tensors_are_one_by_their_storage_and_not_by_an_address() -> None:
    ones, twos = _Wrapper(torch.ones(3)), _Wrapper(torch.full((3,), 2.0))
    assert ones.data_ptr() == twos.data_ptr() == 0
    assert storage_key(ones) != storage_key(twos)
    tensors, metadata = file_tensors({"a": ones, "b": twos})
    assert metadata is None
    assert tensors["a"].raw().tobytes() != tensors["b"].raw().tobytes()


def test_views_are_one_only_with_the_same_elements() -> None:
    x = torch.arange(12.0).reshape(3, 4)
    state = {"a": x, "b": x.detach(), "c": x.mT, "d": x[1:], "e": x.clone()}
    tensors, metadata = file_tensors(state)
    assert sorted(tensors) == ["a", "c", "d", "e"]
    assert metadata == {KEY: '{"b": "a"}'}
    z = torch.tensor([1 + 2j])
    assert storage_key(z) != storage_key(z.conj())


@pytest.mark.parametrize("other", [torch.arange(7.0), torch.arange(7, dtype=torch.uint8)])
def test_a_vector_whose_blob_has_the_name_of_something_else_stays_as_it_is(
    other: torch.Tensor, tmp_path: Path
) -> None:
    model = nn.Module()
    model.register_buffer("mean", torch.zeros(64))
    model.register_buffer("mean_blob", other)
    tensors, _ = file_tensors(model.state_dict())
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "mean": (64,),
        "mean_blob": (7,),
    }
    tersor.save(model, tmp_path / "m")
    empty = nn.Module()
    empty.register_buffer("mean", torch.ones(64))
    empty.register_buffer("mean_blob", torch.zeros_like(other))
    loaded = tersor.load_model(tmp_path / "m", empty).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())
