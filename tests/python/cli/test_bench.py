"""How fast the layers of a file run; that they are timed, not how fast."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Fails, Run, f32

from tersor.io import container

torch = pytest.importorskip("torch")


def test_matrices_are_timed_and_filters_named(small: Path, works: Run) -> None:
    threads = torch.get_num_threads()
    options = ["--batch", 2, "--threads", 2, "--precision", "low"]
    found = json.loads(works("bench", small, "--json", *options).stdout)
    assert torch.get_num_threads() == threads
    assert found["options"] == {"batch": 2, "threads": 2, "precision": "low"}
    # A file does not tell that a matrix is one of an embedding.
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert set(layers) == {"fc.weight", "embedding.weight"}
    assert found["left"] == ["conv.weight"]
    assert 0 < layers["fc.weight"]["error"] < 0.1
    text = works("bench", small).stdout
    assert "batch 1, 1 thread, precision high" in text
    assert "not timed (the file does not tell the size of their inputs): conv.weight" in text


def test_a_dense_file_is_refused(tmp_path: Path, fails: Fails) -> None:
    path = tmp_path / "dense.safetensors"
    container.write_file(path, {"a": f32(np.ones((4, 4)))})
    assert "holds no compressed layer" in fails("bench", path)
