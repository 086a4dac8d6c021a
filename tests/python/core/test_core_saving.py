"""Saving keeps what stands around a file: links, permissions, files of others."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from tersor.io import container


def _write(path: Path) -> None:
    data = np.arange(8, dtype=np.uint8)
    container.write_file(path, {"x": container.Tensor("U8", (8,), data)})


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    blob, link = tmp_path / "blob", tmp_path / "model.safetensors"
    blob.write_bytes(b"old")
    link.symlink_to(blob.name)
    _write(link)
    assert link.is_symlink()
    assert container.open(blob).tensors["x"].bytes().tolist() == list(range(8))


def test_a_private_file_stays_private(tmp_path: Path) -> None:
    path = tmp_path / "f"
    _write(path)
    path.chmod(0o600)
    _write(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_of_another_program_stays(tmp_path: Path) -> None:
    (tmp_path / "f.tmp").write_text("kept")
    _write(tmp_path / "f")
    assert (tmp_path / "f.tmp").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "f.tmp"]


def test_what_is_no_file_is_one_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        _write(tmp_path / "folder")
    assert caught.value.errno == errno.EISDIR
    assert caught.value.filename == str(tmp_path / "folder")
