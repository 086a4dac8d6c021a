"""The worked example of docs/format.md is the file that the library writes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from tersor.codec import csr
from tersor.codec.blob import CompressedTensor, encode_blob
from tersor.io import container
from tersor.io.container import Tensor

PAGE = Path(__file__).resolve().parents[3] / "docs" / "format.md"
LINE = re.compile(r"^([0-9a-f]{4})  ((?:[0-9a-f]{2} ?){1,16}) +(\S.*)$", re.MULTILINE)


def _example(path: Path) -> bytes:
    codes = np.array([[0, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 0]], np.uint8)
    values = np.array([0.5, -1.0], np.float32)
    blob = encode_blob(CompressedTensor((2, 6), "shared_fp32", csr.encode(codes, 2), values))
    bias = np.array([1.0, -2.0], np.float32)
    container.write_file(
        path, {"w_blob": Tensor("U8", blob.shape, blob), "b": Tensor("F32", bias.shape, bias)}
    )
    return path.read_bytes()


def test_the_dump_in_the_docs_is_the_file(tmp_path: Path) -> None:
    written = _example(tmp_path / "f")
    section = PAGE.read_text().split("## A file, byte by byte")[1]
    dumped = b""
    for offset, digits, note in LINE.findall(section):
        assert int(offset, 16) == len(dumped), f"{offset} does not follow what stands before it"
        some = bytes.fromhex(digits)
        # The lines of the JSON header repeat their bytes as text.
        if 8 <= len(dumped) < 8 + int.from_bytes(written[:8], "little"):
            assert note.encode() == some.rstrip(b" ")
        dumped += some
    assert dumped == written
