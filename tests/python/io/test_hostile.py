"""Files and blobs made to hurt a reader: each is refused with one error, which names the byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import xxhash

import tersor
from tersor.codec.blob import decode_blob, inspect_blob
from tersor.kernels.spmm import pack_blob


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value % 128 + 128])
        value //= 128
    return out + bytes([value])


def _constant(symbol: int, count: int) -> bytes:
    """A stream of one symbol, repeated as often as a few bytes say."""
    return _varint(count) + bytes([0, symbol])


def _stored(symbols: list[int]) -> bytes:
    """A stream of bytes as they are."""
    return _varint(len(symbols)) + bytes([1, 8, *symbols])


def _words(lengths: list[int], count: int) -> bytes:
    """A stream of words of these lengths of symbols from 1 on, all of whose bits are zero."""
    nibbles = [0, 0, *lengths]  # symbol 0, and no further one, has no word
    nibbles += [0] * (len(nibbles) % 2)
    packed = [nibbles[i] | nibbles[i + 1] << 4 for i in range(0, len(nibbles), 2)]
    return _varint(count) + bytes([2, len(lengths), *packed, *bytes(count)])


def _blob(
    shape: tuple[int, ...], codes: bytes, gaps: bytes, row_lengths: bytes, fillers: int = 0
) -> bytes:
    """A blob of these streams, gaps of four bits, two shared values and a hash that is right."""
    body = b"TSR\x01" + bytes([3 << 3, len(shape)]) + b"".join(map(_varint, shape))
    body += _varint(2) + _varint(fillers) + _varint(len(codes)) + _varint(len(gaps))
    body += struct.pack("<2f", 0.5, -1.0) + codes + gaps + row_lengths
    return body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body))


def _position(blob: bytes, part: bytes) -> int:
    return blob.index(part)


def _refused(blob: bytes, message: str, position: int) -> None:
    with pytest.raises(tersor.FormatError) as caught:
        decode_blob(blob)
    assert str(caught.value) == f"layer blob: {message} (at byte {position})"


def _write(path: Path, header: str | dict[str, object], data: bytes = b"") -> Path:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def _entry(shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": "U8", "shape": shape, "data_offsets": [begin, end]}


def _file_refused(path: Path, message: str, position: int) -> None:
    with pytest.raises(tersor.FormatError) as caught:
        tersor.open(path)
    assert str(caught.value) == f"{path}: {message} (at byte {position})"


def test_a_good_blob_of_these_parts_is_read() -> None:
    blob = _blob((2, 6), _stored([1, 2]), _stored([5, 0]), _stored([1, 1]))
    layer = decode_blob(blob)
    assert layer.csr.codes.tolist() == [1, 2]
    assert layer.csr.gaps.tolist() == [5, 0]


def test_a_zip_bomb_is_refused_before_anything_is_allocated() -> None:
    many = 1 << 40
    codes = _constant(1, many)
    blob = _blob((1 << 20, 1 << 20), codes, _constant(0, many), _constant(1, 1 << 20))
    assert len(blob) < 80
    _refused(blob, "an announced size is larger than allowed", _position(blob, codes))
    # Some constant streams are believed, but not past the caller's limit.
    codes = _constant(1, 1 << 20)
    blob = _blob((1 << 10, 1 << 10), codes, _constant(0, 1 << 20), _stored([0] * (1 << 10)))
    with pytest.raises(tersor.FormatError, match="larger than allowed"):
        decode_blob(blob, max_bytes=1 << 20)


def test_what_packing_may_take_is_refused_before_it_is_allocated() -> None:
    # As far as the announced sizes tell, each entry may take a step of its own.
    rows, row_lengths = 1 << 11, _constant(1, 1 << 11)
    codes = _constant(1, rows)
    blob = _blob((rows, 4), codes, _constant(0, rows), row_lengths)
    info = inspect_blob(blob)
    needed = info.decoded_bytes + info.packing_bytes
    assert decode_blob(blob, max_bytes=info.decoded_bytes).csr.rows == rows
    assert pack_blob(blob, max_bytes=needed).nbytes <= info.packing_bytes
    with pytest.raises(tersor.FormatError, match="larger than allowed") as refused:
        pack_blob(blob, max_bytes=needed - 1)
    assert f"at byte {_position(blob, codes)}" in str(refused.value)


def test_dimensions_whose_product_overflows_are_refused() -> None:
    blob = _blob((2, 1 << 31, 1 << 31, 1 << 31), b"\0", b"\0", b"\0")
    _refused(blob, "an announced size is larger than allowed", 22)


def test_a_shape_whose_product_overflows_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"a": _entry([1 << 32, 1 << 32], 0, 4)})
    path = _write(tmp_path / "f", header, bytes(4))
    position = 8 + header.index("[4294967296")
    _file_refused(path, "an announced size is larger than allowed", position)


def test_over_subscribed_code_lengths_are_refused() -> None:
    codes = _words([1, 1, 1], 2)  # three words of one bit
    blob = _blob((2, 6), codes, _stored([5, 0]), _stored([1, 1]))
    _refused(
        blob, "the code lengths do not make a complete prefix code", _position(blob, codes) + 5
    )


def test_incomplete_code_lengths_are_refused() -> None:
    codes = _words([1, 2], 2)  # words 0 and 10, and none that begins with 11
    blob = _blob((2, 6), codes, _stored([5, 0]), _stored([1, 1]))
    _refused(
        blob, "the code lengths do not make a complete prefix code", _position(blob, codes) + 4
    )


def test_a_gap_that_runs_past_its_row_is_refused() -> None:
    gaps = _stored([6, 0])
    blob = _blob((2, 6), _stored([1, 2]), gaps, _stored([1, 1]))
    _refused(blob, "a gap runs past the end of its row or of the tensor", _position(blob, gaps))


def test_a_code_past_the_codebook_is_refused() -> None:
    codes = _stored([1, 3])
    blob = _blob((2, 6), codes, _stored([5, 0]), _stored([1, 1]))
    _refused(blob, "a code has no value in the codebook", _position(blob, codes))


def test_a_key_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    first, second = json.dumps(_entry([2], 0, 2)), json.dumps(_entry([2], 2, 4))
    header = f'{{"a":{first},"a":{second}}}'
    path = _write(tmp_path / "f", header, bytes(4))
    _file_refused(path, "a name occurs twice", 8 + header.rindex(second))


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"a": {**_entry([4], 0, 4), "run": "os.system"}})
    path = _write(tmp_path / "f", header, bytes(4))
    position = 8 + header.index('{"dtype')
    _file_refused(path, "the header is not the JSON that safetensors asks for", position)


def test_tensors_that_overlap_are_refused(tmp_path: Path) -> None:
    header = json.dumps({"a": _entry([3], 0, 3), "b": _entry([2], 2, 4)})
    path = _write(tmp_path / "f", header, bytes(4))
    _file_refused(path, "tensors overlap or leave holes between them", 8 + len(header) + 2)


def test_json_a_hundred_levels_deep_is_refused(tmp_path: Path) -> None:
    deep = '{"a":' * 100 + "1" + "}" * 100
    path = _write(tmp_path / "f", deep)
    position = 8 + 8 * len('{"a":')
    _file_refused(path, "the header is not the JSON that safetensors asks for", position)


def test_names_and_metadata_are_texts_and_nothing_else(tmp_path: Path) -> None:
    names = ["../../etc/passwd", "/dev/zero", "__import__('os').system('true')", "%s%n", "a\0b"]
    header: dict[str, object] = {"__metadata__": {name: name for name in names}}
    header |= {name: _entry([1], i, i + 1) for i, name in enumerate(names)}
    path = _write(tmp_path / "f", header, bytes(range(len(names))))
    with tersor.open(path) as file:
        assert file.metadata == {name: name for name in names}
        for i, name in enumerate(names):
            assert file.tensors[name].bytes().tolist() == [i]
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_inspecting_a_bomb_decodes_nothing() -> None:
    blob = _blob(
        (1 << 14, 1 << 14), _constant(1, 1 << 28), _constant(0, 1 << 28), _constant(127, 1 << 14)
    )
    info = inspect_blob(blob, verify=True)
    assert info.entries == 1 << 28
    assert info.decoded_bytes > 1 << 29
    with pytest.raises(tersor.FormatError, match="larger than allowed"):
        decode_blob(np.frombuffer(blob, np.uint8), max_bytes=1 << 20)
