"""The scripts of examples/cifar10 run from data to files, on a few images of noise."""

from __future__ import annotations

import copy
import dataclasses
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tersor
from examples.cifar10 import compress_resnet, dataset, resnet, resnet_results
from tersor.quantizers.equal_error import QUANTIZERS

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow  # trains


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
        [sys.executable, "-m", f"examples.cifar10.{script}", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_method_has_a_recipe() -> None:
    for quantizer in QUANTIZERS:
        recipe = resnet_results.recipe_for(quantizer)
        assert recipe.quantizer == quantizer
        assert recipe.pruning() == resnet_results.RECIPES["papers"].pruning()
    for name, recipe in resnet_results.RECIPES.items():
        assert resnet_results.recipe_for(name) is recipe


def test_training_then_pruning_then_sharing(tmp_path: Path) -> None:
    data, dense = tmp_path / "images.npz", tmp_path / "dense.safetensors"
    _archive(data, 48)
    trained = _run("train_resnet", "--data", data, "--epochs", 1, "--output", dense)
    assert "epoch 1/1" in trained
    images, test = dataset.load(data)
    recipe = compress_resnet.recipe_of(
        density=0.2, prune_epochs=2, codebook_epochs=1, assignment_epochs=1
    )
    teacher = resnet.ResNet32()
    teacher.load_state_dict(load_file(dense))

    def pruned(quantizer: str) -> compress_resnet.ResNetTrainer:
        compressor = compress_resnet.ResNetTrainer(
            copy.deepcopy(teacher),
            teacher,
            images,
            dataclasses.replace(recipe, quantizer=quantizer),
            seed=0,
            state=tmp_path / "pruned.pt",
        )
        compressor.prune()
        return compressor

    first = pruned(QUANTIZERS[0])
    assert first.density() == pytest.approx(0.2, rel=0.01)
    for quantizer in QUANTIZERS:
        compressor = pruned(quantizer)  # resumed: nothing is left to do
        for name, w in compressor.weights.items():
            assert torch.equal(w, first.weights[name])
        compressor.state = None
        compressor.train_quantized(compressor.quantize())
        path = tmp_path / f"{quantizer}.safetensors"
        compress_resnet.save(compressor.model, path)
        assert path.stat().st_size < 4 * 464_154 / 15
        loaded = tersor.load(path, resnet.fold_norms_(resnet.ResNet32())).eval()
        x = dataset.to_input(test.pixels)
        # Scales and shifts have gone to fp16, and with them the values of the layers before.
        torch.testing.assert_close(loaded(x), compressor.model.eval()(x), rtol=0.02, atol=0.02)
