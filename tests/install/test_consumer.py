"""A C++ program outside the project finds the library, reads Python's file and multiplies alike."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tersor import container, csr, layer, spmm

ROOT = Path(__file__).resolve().parents[2]
CONSUMER = Path(__file__).parent / "consumer"
ROWS, COLS = 37, 91

pytestmark = pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")


def command(*arguments: str | Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed_prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``cmake --install`` makes of a build tree: that of the C++ tests, or one of its own."""
    build = ROOT / "build" / "cpp"
    if not (build / "CMakeCache.txt").is_file():
        build = ROOT / "build" / "install"
        command("cmake", "-S", ROOT, "-B", build, "-DTERSOR_TESTS=OFF")
    command("cmake", "--build", build, "--target", "tersor", "--parallel", "2")
    prefix = tmp_path_factory.mktemp("prefix")
    command("cmake", "--install", build, "--prefix", prefix)
    return prefix


@pytest.fixture(scope="module")
def wheel_prefix() -> Path:
    """What lies in the installed Python package."""
    return Path(command(sys.executable, "-m", "tersor.cmake", "--prefix").strip())


@pytest.mark.parametrize("prefix", ["installed_prefix", "wheel_prefix"])
def test_consumer_multiplies_as_python_does(
    prefix: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(prefix)
    rng = np.random.default_rng(5)
    codes = rng.integers(1, 16, (ROWS, COLS), dtype=np.uint8)
    codes[rng.random((ROWS, COLS)) > 0.1] = 0
    values = np.sort(rng.normal(size=15)).astype(np.float32)
    matrix = csr.encode(codes, 3)
    blob = layer.encode_layer(layer.Layer((ROWS, COLS), "shared_fp32", matrix, values))
    file = tmp_path / "model.safetensors"
    container.write_file(
        file, {"fc.weight_blob": container.Tensor("U8", (blob.size,), blob.tobytes())}
    )

    build = tmp_path / "build"
    command(
        "cmake", "-S", CONSUMER, "-B", build,
        f"-DCMAKE_PREFIX_PATH={folder}", "-DCMAKE_BUILD_TYPE=Release",
    )  # fmt: skip
    command("cmake", "--build", build)
    lines = command(build / "consumer", file, "fc.weight_blob").split()

    codebook = np.concatenate([[np.float32(0)], values])
    x = ((np.arange(COLS) % 7 - 3) * 0.5).astype(np.float32)
    y = np.array(lines, np.float64)
    assert y.shape == (ROWS,)
    expected = spmm.multiply(spmm.pack(matrix, codebook), x)
    np.testing.assert_array_equal(y.astype(np.float32), expected)
    np.testing.assert_allclose(y, codebook[codes].astype(np.float64) @ x, rtol=0, atol=1e-4)
