"""The programs of docs/deploy.md, built as the page says."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tersor.codec.encode import decompress_weight
from tersor.io import container
from tests.docs.blocks import blocks
from tests.install.commands import command

pytestmark = [
    pytest.mark.slow,  # builds
    pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake"),
]
CPP, CMAKE, C = (
    blocks("docs/deploy.md", "cpp"),
    blocks("docs/deploy.md", "cmake"),
    blocks("docs/deploy.md", "c"),
)
SHELL = blocks("docs/deploy.md", "sh")


@pytest.mark.parametrize("prefix", ["installed_prefix", "wheel_prefix"])
@pytest.mark.parametrize("language", ["cpp", "c"])
def test_the_program_multiplies_as_python_does(
    language: str, prefix: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    assert len(CPP) == len(CMAKE) == len(C) == 1
    assert len(SHELL) == 2
    folder: Path = request.getfixturevalue(prefix)
    weight = np.random.default_rng(1).normal(size=(20, 30)).astype(np.float32)
    dense = container.Tensor("F32", weight.shape, weight)
    container.write_file(tmp_path / "model.safetensors", {"body.weight": dense})
    tersor = (sys.executable, "-m", "tersor.cli.main")
    command(*tersor, "compress", "model.safetensors", "-o", "small.safetensors", cwd=tmp_path)
    (tmp_path / "first.cpp").write_text(CPP[0].text)
    (tmp_path / "CMakeLists.txt").write_text(CMAKE[0].text)
    (tmp_path / "first.c").write_text(C[0].text)
    script = SHELL[language == "c"].text
    asked = "python -m tersor.cmake --prefix"
    if prefix == "installed_prefix":  # as without the wheel
        script = script.replace(asked, f"echo {folder}")
    pkg_config = next(folder.rglob("tersor_runtime.pc")).parent
    printed = command("bash", "-ec", script, cwd=tmp_path, PKG_CONFIG_PATH=pkg_config)
    with container.open(tmp_path / "small.safetensors") as file:
        stored = decompress_weight(file.tensors["body.weight_blob"].layer())
    y = np.array(printed.split()[-20:], np.float64)
    np.testing.assert_allclose(y, stored.astype(np.float64).sum(1), atol=1e-4)
