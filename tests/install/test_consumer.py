"""A C++ program outside the project finds the library, reads Python's file and multiplies alike."""

from __future__ import annotations

import gzip
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tersor.codec import csr
from tersor.codec.blob import CompressedTensor, encode_blob
from tersor.io import container
from tersor.kernels import spmm

ROOT = Path(__file__).resolve().parents[2]
CONSUMER = Path(__file__).parent / "consumer"
ROWS, COLS = 37, 91

pytestmark = [
    pytest.mark.slow,  # builds
    pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake"),
]


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
    libraries = ("tersor", "tersor_runtime", "tersor_shared")
    command("cmake", "--build", build, "--target", *libraries, "--parallel", "2")
    prefix = tmp_path_factory.mktemp("prefix")
    command("cmake", "--install", build, "--prefix", prefix)
    return prefix


@pytest.fixture(scope="module")
def wheel_prefix() -> Path:
    """What lies in the installed Python package."""
    return Path(command(sys.executable, "-m", "tersor.cmake", "--prefix").strip())


def write_model(file: Path) -> npt.NDArray[np.float32]:
    """Writes a file of one layer, ``fc.weight``; what it makes of the consumers' x, float32."""
    rng = np.random.default_rng(5)
    codes = rng.integers(1, 16, (ROWS, COLS), dtype=np.uint8)
    codes[rng.random((ROWS, COLS)) > 0.1] = 0
    values = np.sort(rng.normal(size=15)).astype(np.float32)
    matrix = csr.encode(codes, 3)
    blob = encode_blob(CompressedTensor((ROWS, COLS), "shared_fp32", matrix, values))
    container.write_file(
        file, {"fc.weight_blob": container.Tensor("U8", (blob.size,), blob.tobytes())}
    )
    codebook = np.concatenate([[np.float32(0)], values])
    x = ((np.arange(COLS) % 7 - 3) * 0.5).astype(np.float32)
    y = spmm.multiply(spmm.pack(matrix, codebook), x)
    np.testing.assert_allclose(y, codebook[codes].astype(np.float64) @ x, rtol=0, atol=1e-4)
    return y


def check_consumer(program: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    expected = write_model(file)
    lines = command(program, file, "fc.weight_blob").split()
    np.testing.assert_array_equal(np.array(lines, np.float64).astype(np.float32), expected)


@pytest.mark.parametrize("library", ["tersor", "runtime"])
@pytest.mark.parametrize("prefix", ["installed_prefix", "wheel_prefix"])
def test_consumer_multiplies_as_python_does(
    prefix: str, library: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(prefix)
    build = tmp_path / "build"
    command(
        "cmake", "-S", CONSUMER, "-B", build, f"-DTERSOR_LIBRARY=tersor::{library}",
        f"-DCMAKE_PREFIX_PATH={folder}", "-DCMAKE_BUILD_TYPE=Release",
    )  # fmt: skip
    command("cmake", "--build", build)
    check_consumer(build / "consumer", tmp_path)


@pytest.mark.parametrize("source", ["installed_prefix", "wheel_prefix", "add_subdirectory"])
def test_the_example_classifies_mnist(
    source: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    build = tmp_path / "build"
    if source == "add_subdirectory":
        # Unoptimised, as compiling takes longer than everything else.
        options = [f"-DTERSOR_SOURCE={ROOT}", "-DCMAKE_BUILD_TYPE=Debug"]
    else:
        options = [f"-DCMAKE_PREFIX_PATH={request.getfixturevalue(source)}"]
    command("cmake", "-S", ROOT / "examples" / "cpp_consumer", "-B", build, *options)
    command("cmake", "--build", build, "--parallel", "2")
    data = []
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        packed = (ROOT / "examples" / "mnist" / "data" / f"{name}.gz").read_bytes()
        data.append(tmp_path / name)
        data[-1].write_bytes(gzip.decompress(packed))
    rows = json.loads((ROOT / "docs" / "results.json").read_text())
    row = next(r for r in rows if (r["network"], r["method"]) == ("lenet-300-100", "best"))
    printed = command(build / "mnist", ROOT / row["file"], *data)
    found = re.fullmatch(r"accuracy (\S+) %\n(\d+) images per second\n", printed)
    assert found, printed
    # Sums in another order may turn single images.
    assert float(found[1]) == pytest.approx(100 - row["error"], abs=0.02)
    assert int(found[2]) > 0


@pytest.mark.parametrize("name", ["tersor", "tersor_runtime"])
@pytest.mark.parametrize("prefix", ["installed_prefix", "wheel_prefix"])
def test_a_c_program_finds_the_library_through_pkg_config(
    prefix: str, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("needs pkg-config")
    folder: Path = request.getfixturevalue(prefix)
    pc = next(folder.rglob(f"{name}.pc"))
    flags = command("pkg-config", "--cflags", "--libs", pc).split()
    program = tmp_path / "consumer"
    source = Path(__file__).parent / "c_consumer" / "main.c"
    shared = prefix == "installed_prefix" and name == "tersor"
    library = [f"-Wl,-rpath,{pc.parents[1]}"] if shared else []
    command("cc", "-std=c11", "-Wall", "-Werror", source, "-o", program, *flags, *library)
    check_consumer(program, tmp_path)
    if library:
        assert "libtersor.so.0.1" in command("ldd", program)


def test_the_shared_library_shows_the_c_interface_alone(installed_prefix: Path) -> None:
    library = next(installed_prefix.rglob("libtersor.so"))
    listed = command("nm", "-D", "--defined-only", library).splitlines()
    names = {line.split()[-1] for line in listed}
    header = (ROOT / "cpp" / "include" / "tersor" / "c_api.h").read_text()
    assert names == set(re.findall(r"(?<=[ *])(tersor_\w+)\(", header.split('extern "C"')[1]))


@pytest.mark.skipif(platform.system() != "Linux", reason="libraries are named otherwise there")
def test_the_shared_library_has_a_name_for_its_interface(installed_prefix: Path) -> None:
    shared = next(installed_prefix.rglob("libtersor.so"))
    (soname,) = re.findall(r"SONAME.*\[(.+)\]", command("readelf", "--dynamic", shared))
    assert re.fullmatch(r"libtersor\.so\.\d+\.\d+", soname)
    assert (shared.parent / soname).resolve() == shared.resolve()


def defined_names(archive: Path) -> list[tuple[str, str]]:
    """What an archive has for programs to link to: the kind of symbol, as ``nm`` says, its name."""
    listed = command("nm", "--demangle", "--defined-only", "--extern-only", archive).splitlines()
    parts = [line.split(" ", 2) for line in listed]
    return [(part[1], part[2]) for part in parts if len(part) == 3]


def function_names(archive: Path) -> set[str]:
    """Functions of an archive, as C++ writes them, without their arguments."""
    functions = [name.split("(")[0] for kind, name in defined_names(archive) if kind == "T"]
    return {re.sub(r"\[abi:\w+\]", "", function) for function in functions}


WRITING = {
    "tersor::encode_layer", "tersor::write_file",
    "tersor::huffman::code_lengths", "tersor::huffman::encode",
    "tersor::huffman::entropy", "tersor::huffman::histogram",
    "tersor::kmeans::cluster",
    "tersor::PackedMatrix::transposed", "tersor::PackedMatrix::with_codebook",
    "tersor::spmm::kernel_list", "tersor::spmm::multiply_by", "tersor::spmm::sum_by_code",
}  # fmt: skip


def test_the_runtime_has_what_the_headers_declare_but_for_writing(installed_prefix: Path) -> None:
    whole, runtime = (
        function_names(next(installed_prefix.rglob(name)))
        for name in ("libtersor.a", "libtersor_runtime.a")
    )
    headers = "".join(file.read_text() for file in (ROOT / "cpp" / "include").rglob("*.h*"))
    scopes = "csr|huffman|kmeans|spmm|conv|File|PackedMatrix"
    public = {
        name
        for name in whole
        if re.fullmatch(rf"tersor(::({scopes}))?::[^:]+|tersor_\w+", name)
        and re.search(rf"(?<!\w){re.escape(name.split('::')[-1])}\(", headers)
    }
    assert public - runtime == WRITING
    if platform.system() == "Linux":  # GNU ld makes one object of it
        assert runtime <= public
        # Nothing that a program may have as well, from the standard library's headers.
        archive = next(installed_prefix.rglob("libtersor_runtime.a"))
        assert {kind for kind, _ in defined_names(archive)} == {"T"}


def test_the_runtime_lacks_nothing_of_its_own(installed_prefix: Path) -> None:
    archive = next(installed_prefix.rglob("libtersor_runtime.a"))
    listed = command("nm", "--demangle", archive).splitlines()
    words = [line.split(maxsplit=1) for line in listed if " U " in line]
    defined = function_names(archive)
    missing = {rest for _, rest in words if rest.startswith("tersor")}
    assert {name.split("(")[0] for name in missing} <= defined


def stripped_size(archive: Path, tmp_path: Path) -> int:
    stripped = tmp_path / archive.name
    command("strip", "--strip-unneeded", archive, "-o", stripped)
    return stripped.stat().st_size


@pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.system() != "Linux",
    reason="what takes most is kernels for x86, and GNU ld makes one object of them",
)
def test_the_runtime_takes_half_a_megabyte(installed_prefix: Path, tmp_path: Path) -> None:
    archive = next(installed_prefix.rglob("libtersor_runtime.a"))
    assert stripped_size(archive, tmp_path) < 500_000


@pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.system() != "Linux",
    reason="without kernels for x86 there is nothing to leave out",
)
def test_the_runtime_takes_less_without_avx512(tmp_path: Path) -> None:
    build = ROOT / "build" / "runtime"
    command("cmake", "-S", ROOT, "-B", build, "-DTERSOR_AVX512=OFF", "-DCMAKE_BUILD_TYPE=Release")
    command("cmake", "--build", build, "--target", "tersor_runtime", "--parallel", "2")
    assert stripped_size(build / "libtersor_runtime.a", tmp_path) < 300_000
