"""The scripts of examples/cifar10 run from data to files, on a few images of noise."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cifar10"


def _archive(path: Path, images: int) -> None:
    rng = np.random.default_rng(0)
    files = []
    for _ in range(images):
        with io.BytesIO() as file:
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file, "JPEG")
            files.append(np.frombuffer(file.getvalue(), np.uint8))
    np.savez(
        path,
        data=np.concatenate(files),
        off=np.cumsum([0, *map(len, files)]),
        y=np.arange(images) % 10,
        train=np.arange(images) % 3 > 0,
    )


def _run(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLE / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_training_then_pruning_then_sharing(tmp_path: Path) -> None:
    data, dense = tmp_path / "images.npz", tmp_path / "dense.safetensors"
    _archive(data, 48)
    trained = _run("train_resnet.py", "--data", data, "--epochs", 1, "--output", dense)
    assert "epoch 1/1" in trained
    assert dense.exists()
    again = ("--data", data, "--dense", dense, "--output", tmp_path, "--prune-epochs", 2)
    out = _run("compress_resnet.py", *again, "--share-epochs", 1, "--method", "uniform")
    assert "epoch 2/2" in out
    assert "density 20.00%, pruning" in out
    ratio = re.search(r"uniform: test error .* ([0-9.]+)x by file bytes", out)
    assert ratio is not None
    assert float(ratio[1]) > 10
    # A second run finds the pruned network and goes on with another method.
    out = _run("compress_resnet.py", *again, "--share-epochs", 1, "--method", "kmeans")
    assert "pruning" not in out
    assert (tmp_path / "resnet-32-kmeans.safetensors").exists()
