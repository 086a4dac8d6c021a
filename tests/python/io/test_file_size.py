"""The size that is computed is that of the file that is written."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersor.codec import csr
from tersor.codec.blob import SUFFIX, CompressedTensor, encode_blob
from tersor.io import container
from tersor.io.container import Tensor
from tersor.io.element_types import ELEMENT_BYTES

# Quotes, backslashes, control characters and every length of UTF-8 in what the header holds.
_TEXTS = st.text(
    st.one_of(st.sampled_from('"\\\n\x00\x1f/ab.é€😀'), st.characters(exclude_categories=["Cs"])),
    max_size=12,
)
_NAMES = st.one_of(_TEXTS, _TEXTS.map(lambda text: "model.layers." + text)).filter(
    lambda name: name not in ("tersor", "__metadata__")
)
# Around the size from which tensors have their own entry, and where sizes take another digit.
_LENGTHS = st.one_of(st.integers(0, 300), st.sampled_from([510, 512, 1023, 1024, 4095, 4096, 9999]))


def _blob(rows: int) -> np.ndarray:
    codes = np.eye(rows, 9, dtype=np.uint8)
    values = np.ones(1, np.float32)
    return encode_blob(CompressedTensor((rows, 9), "shared_fp32", csr.encode(codes, 2), values))


_BLOBS = {rows: _blob(rows) for rows in (1, 5, 200, 5000)}


@st.composite
def _tensors(draw: st.DrawFn) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in draw(st.lists(_NAMES, max_size=12, unique=True)):
        if draw(st.booleans()):
            blob = _BLOBS[draw(st.sampled_from(sorted(_BLOBS)))]
            tensors[name + draw(st.sampled_from([SUFFIX, ""]))] = Tensor("U8", blob.shape, blob)
            continue
        dtype = draw(st.sampled_from(sorted(ELEMENT_BYTES)))
        shape = (*draw(st.sampled_from([(), (1,), (1, 1)])), draw(_LENGTHS))
        shape = shape if draw(st.booleans()) else shape[:-1]
        tensors[name] = Tensor(dtype, shape, bytes(ELEMENT_BYTES[dtype] * math.prod(shape)))
    return tensors


@pytest.mark.slow
@given(_tensors(), st.dictionaries(_TEXTS, _TEXTS, max_size=3), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_file(tensors: dict[str, Tensor], metadata: dict[str, str], plain: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f"
        container.write_file(path, tensors, metadata, plain=plain)
        assert container.file_bytes(tensors, metadata, plain=plain) == path.stat().st_size


@pytest.mark.parametrize("small", [0, 1, 127, 128, 300])
def test_counts_that_take_more_bytes(small: int, tmp_path: Path) -> None:
    tensors = {f"layer.{i}.bias": Tensor("F16", (i,), bytes(2 * i)) for i in range(small)}
    tensors |= {f"w{i}": Tensor("BF16", (4096 + i,), bytes(8192 + 2 * i)) for i in range(30)}
    container.write_file(tmp_path / "f", tensors)
    assert container.file_bytes(tensors) == (tmp_path / "f").stat().st_size


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a file is written")

    monkeypatch.setattr("tersor._core.write_file", refuse)
    assert container.file_bytes({"a": Tensor("F32", (2,), bytes(8))}) > 8
