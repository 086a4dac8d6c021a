"""Ordinary safetensors that are written as they are decoded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tersor import FormatError
from tersor.io import container, stream
from tersor.io.container import Tensor
from tersor.io.stream import Entry

ENTRIES = [Entry("b", "F32", (2, 3)), Entry("é", "BF16", (4,)), Entry("a", "I64", ())]


def _raw(name: str) -> np.ndarray:
    entry = next(e for e in ENTRIES if e.name == name)
    return np.full(entry.nbytes, len(name.encode()) + ord(name[0]) % 7, np.uint8)


def test_headers_are_those_of_the_stock_writer(tmp_path: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    arrays = {"b": np.zeros((2, 3), np.float32), "a": np.zeros((), np.int64)}
    path = tmp_path / "m.safetensors"
    numpy.save_file(arrays, path, {"format": "pt"})
    entries = [Entry("b", "F32", (2, 3)), Entry("a", "I64", ())]
    assert stream.source_entry(path, entries, {"format": "pt"}) == ""


@pytest.mark.parametrize("threads", [1, 3])
def test_tensors_are_written_in_their_order(threads: int, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old")
    path.chmod(0o640)
    stream.write_stream(path, stream.plain_header(ENTRIES, {"k": "v"}), _raw, threads=threads)
    with container.open(path) as file:
        assert file.metadata == {"k": "v"}
        for entry in ENTRIES:
            assert file.tensors[entry.name].bytes().tobytes() == _raw(entry.name).tobytes()
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old")

    def read(name: str) -> np.ndarray:
        raise ValueError(name)

    with pytest.raises(ValueError, match="a"):
        stream.write_stream(path, stream.plain_header(ENTRIES, {}), read)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def _odd_header() -> bytes:
    """What another writer may make: another order, spaces, an escape."""
    members = {
        "b": {"shape": [2, 3], "dtype": "F32", "data_offsets": [8, 32]},
        "é": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]},
        "a": {"dtype": "I64", "shape": [], "data_offsets": [32, 40]},
    }
    return json.dumps(members, indent=1).encode() + b"   "


def test_a_header_of_another_writer_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    stream.write_stream(path, _odd_header(), _raw)
    kept = stream.source_entry(path, ENTRIES, {})
    assert kept.encode() == _odd_header()
    assert stream.header_for(ENTRIES, {stream.SOURCE: kept}, path) == _odd_header()
    plain = stream.header_for(ENTRIES, {stream.SOURCE: "", "k": "v", "tersor.x": ""}, path)
    assert plain == stream.plain_header(ENTRIES, {"k": "v"})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[8, 32]", "[9, 33]"),
        ("F32", "I32"),
        ("[8, 32]", '"x"'),
        ('"b"', '"c"'),
        (
            "{",
            "[",
        ),
        ("BF16", "B16"),
    ],
)
def test_a_header_of_other_tensors_is_refused(old: str, new: str) -> None:
    text = json.dumps(json.loads(_odd_header())).replace(old, new, 1)
    with pytest.raises(FormatError, match=r"tersor\.source"):
        stream.header_for(ENTRIES, {stream.SOURCE: text}, "m.safetensors")


def test_what_a_tensor_takes_is_known() -> None:
    assert [entry.nbytes for entry in ENTRIES] == [24, 8, 8]
    assert Tensor("F32", (2, 3), _raw("b")).nbytes == 24
