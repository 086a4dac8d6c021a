"""The size of a file before it is written, from its layout (docs/format.md) alone.

A search over settings asks for the size of many files of which one is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tersor.codec.blob import SUFFIX
from tersor.io.element_types import ELEMENT_BYTES

_OUTSIDE_BYTES = 4096  # tensors from here on have their own entry of the header
_HASH_BYTES = 8
_INDEX = "tersor"
# Magic, version, hash of the header; minor version, features and extras, a byte each.
_INDEX_START = 4 + 1 + _HASH_BYTES + 3


@dataclass(frozen=True)
class StoredSize:
    """A tensor as far as the size of a file depends on it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    compressed: bool


def stored_bytes(
    tensors: Sequence[StoredSize], metadata: Mapping[str, str], *, plain: bool = False
) -> int:
    """Bytes of the file that :func:`tersor.io.container.write_file` makes of these tensors.

    Where a blob has contexts, the index may be coded: then the file takes fewer.
    """
    small = [] if plain else [t for t in tensors if t.nbytes < _OUTSIDE_BYTES]
    outside = [t for t in tensors if plain or t.nbytes >= _OUTSIDE_BYTES]
    # The widest elements stand first, then names are in order (that of their UTF-8 bytes).
    small.sort(key=lambda t: (-ELEMENT_BYTES[t.dtype], t.name))
    outside.sort(key=lambda t: (-ELEMENT_BYTES[t.dtype], t.name))
    index = 0 if plain else _index_bytes(small, outside)
    return _header_bytes(index, outside, metadata) + index + sum(t.nbytes for t in outside)


def _round_up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _varint_bytes(number: int) -> int:
    return max(1, -(-number.bit_length() // 7))


def _index_bytes(small: Sequence[StoredSize], outside: Sequence[StoredSize]) -> int:
    size = _INDEX_START + _HASH_BYTES * len(outside) + _varint_bytes(len(small))
    before = b""
    for tensor in small:
        name = tensor.name.removesuffix(SUFFIX) if tensor.compressed else tensor.name
        text = name.encode()
        pairs = zip(before, text, strict=False)
        shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), len(text)))
        rest = len(text) - shared
        size += _varint_bytes(shared) + _varint_bytes(rest) + rest + 1
        if tensor.compressed:
            size += _varint_bytes(tensor.nbytes)
        else:
            size += _varint_bytes(len(tensor.shape)) + sum(map(_varint_bytes, tensor.shape))
        before = text
    if small:
        size = _round_up(size, ELEMENT_BYTES[small[0].dtype])
    size += sum(tensor.nbytes for tensor in small) + _HASH_BYTES
    return _round_up(size, ELEMENT_BYTES[outside[0].dtype] if outside else 1)


def _string_bytes(text: str) -> int:
    escapes = sum(1 if c in '"\\' else 5 for c in text if c < " " or c in '"\\')
    return 2 + len(text.encode()) + escapes


def _object_bytes(members: Sequence[int]) -> int:
    """Of an object in JSON: braces, members and the commas between them."""
    return 2 + sum(members) + max(0, len(members) - 1)


def _numbers_bytes(numbers: Sequence[int]) -> int:
    return 2 + len(",".join(map(str, numbers)))


def _header_bytes(index: int, outside: Sequence[StoredSize], metadata: Mapping[str, str]) -> int:
    def entry(name: str, dtype: str, shape: Sequence[int], begin: int, nbytes: int) -> int:
        fixed = len('{"dtype":"","shape":,"data_offsets":}') + len(dtype)
        numbers = _numbers_bytes(shape) + _numbers_bytes((begin, begin + nbytes))
        return _string_bytes(name) + 1 + fixed + numbers

    members = []
    if metadata:
        texts = [_string_bytes(k) + 1 + _string_bytes(v) for k, v in metadata.items()]
        members.append(_string_bytes("__metadata__") + 1 + _object_bytes(texts))
    if index:
        members.append(entry(_INDEX, "U8", (index,), 0, index))
    offset = index
    for tensor in outside:
        members.append(entry(tensor.name, tensor.dtype, tensor.shape, offset, tensor.nbytes))
        offset += tensor.nbytes
    return 8 + _round_up(_object_bytes(members), 8)
