"""The archive of CIFAR-10 that is made from the official one."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.cifar10.dataset import load
from examples.cifar10.make_archive import make_archive

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def _official(path: Path, batches: dict[str, Any]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in batches.items():
            data = pickle.dumps(content, protocol=2)
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def _batches() -> dict[str, Any]:
    generator = np.random.default_rng(1)
    return {
        name: {
            "data": generator.integers(0, 256, (4, 3072), dtype=np.uint8),
            "labels": generator.integers(0, 10, 4).tolist(),
        }
        for name in BATCHES
    }


def test_pixels_and_labels_stay_what_they_are(tmp_path: Path) -> None:
    batches = _batches()
    _official(tmp_path / "cifar.tar.gz", batches)
    assert make_archive(tmp_path / "cifar.tar.gz", tmp_path / "cifar10.npz") == 24
    train, test = load(tmp_path / "cifar10.npz")
    expected = np.concatenate([batches[name]["data"] for name in BATCHES[:5]])
    assert torch.equal(train.pixels, torch.from_numpy(expected.reshape(-1, 3, 32, 32)))
    assert test.labels.tolist() == batches["test_batch"]["labels"]
    assert len(test.pixels) == 4


class _Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def test_what_is_not_cifar_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = tmp_path / "cifar.tar.gz", tmp_path / "out.npz"
    batches = _batches()
    _official(path, {name: batches[name] for name in BATCHES[:4]})
    with pytest.raises(ValueError, match="has no data_batch_5"):
        make_archive(path, output)
    _official(path, {**batches, "data_batch_2": {"data": batches["data_batch_1"]["data"]}})
    with pytest.raises(ValueError, match="no data and labels"):
        make_archive(path, output)
    _official(path, {**batches, "data_batch_1": _Harmful()})
    with pytest.raises(pickle.UnpicklingError, match="is no part of CIFAR-10"):
        make_archive(path, output)
    assert capsys.readouterr().out == ""
    assert not output.exists()
