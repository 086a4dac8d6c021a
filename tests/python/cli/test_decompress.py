"""What decompress writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import Fails, Run, bf16, f32

from tersor.io import container
from tersor.io.container import Tensor


def test_it_gives_dense_tensors_back(dense: Path, small: Path, works: Run) -> None:
    out = dense.with_name("back.safetensors")
    works("decompress", small, "-o", out)
    with container.open(out) as back, container.open(dense) as before:
        assert set(back.tensors) == set(before.tensors)
        for name, tensor in before.tensors.items():
            assert tuple(back.tensors[name].shape) == tuple(tensor.shape)
        for name in ("fc.bias", "steps"):
            assert back.tensors[name].bytes().tobytes() == before.tensors[name].bytes().tobytes()
        values = back.tensors["fc.weight"].bytes().view("<f4")
        assert len(np.unique(values)) <= 16
        assert np.count_nonzero(values) == pytest.approx(300, abs=5)


@pytest.fixture
def mixed(tmp_path: Path, works: Run) -> Path:
    """A compressed file of several types."""
    rng = np.random.default_rng(0)
    tensors = {
        "fc.weight": bf16(rng.normal(size=(30, 40))),
        "fc.bias": f32(rng.normal(size=30)),
        "scale": Tensor("F8_E4M3", (3,), bytes([56, 57, 58])),
        "steps": Tensor("I64", (1,), bytes(8)),
    }
    container.write_file(tmp_path / "m.safetensors", tensors)
    works("compress", tmp_path / "m.safetensors", "-o", tmp_path / "c.safetensors")
    return tmp_path / "c.safetensors"


@pytest.mark.parametrize(
    ("dtype", "weight", "bias"),
    [(None, "BF16", "F32"), ("bf16", "BF16", "BF16"), ("F16", "F16", "F16"), ("f64", "F64", "F64")],
)
def test_types_are_those_of_the_source_or_as_asked(
    dtype: str | None, weight: str, bias: str, mixed: Path, works: Run
) -> None:
    out = mixed.with_name("back.safetensors")
    works("decompress", mixed, "-o", out, *(["--dtype", dtype] if dtype else []))
    with container.open(out) as back:
        types = {name: view.dtype for name, view in back.tensors.items()}
        assert back.metadata == {"format": "pt"}
    assert types == {"fc.weight": weight, "fc.bias": bias, "scale": "F8_E4M3", "steps": "I64"}


def test_a_number_that_is_too_large_for_the_type_is_named(tmp_path: Path, fails: Fails) -> None:
    container.write_file(tmp_path / "m.safetensors", {"fc.bias": f32(np.array([1e6]))})
    out = tmp_path / "back.safetensors"
    line = fails("decompress", tmp_path / "m.safetensors", "-o", out, "--dtype", "F16")
    assert "fc.bias" in line
    assert not out.exists()


def test_metadata_of_the_user_stays(tmp_path: Path, works: Run) -> None:
    container.write_file(tmp_path / "m.safetensors", {"b": f32(np.ones(2))}, {"format": "mlx"})
    works("decompress", tmp_path / "m.safetensors", "-o", tmp_path / "b.safetensors")
    assert container.open(tmp_path / "b.safetensors").metadata == {"format": "mlx"}


def test_quiet_prints_nothing(small: Path, tmp_path: Path, works: Run) -> None:
    done = works("decompress", small, "-o", tmp_path / "back.safetensors", "--quiet")
    assert done.stdout == done.stderr == ""
