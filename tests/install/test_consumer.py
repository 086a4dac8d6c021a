"""A C++ program outside the project finds the library, reads Python's file and multiplies alike."""

from __future__ import annotations

import gzip
import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tersor.codec import csr, lossless
from tersor.codec.blob import CompressedTensor, encode_blob
from tersor.codec.encode import decompress_weight
from tersor.io import container
from tersor.kernels import spmm
from tests.install.commands import ROOT, command

CONSUMER = Path(__file__).parent / "consumer"
ROWS, COLS = 37, 91

pytestmark = [
    pytest.mark.slow,  # builds
    pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake"),
]


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


def write_without_loss(source: Path, output: Path) -> None:
    """Writes a model anew with its biases as models are saved by default: coded without loss."""
    tensors = {}
    with container.open(source) as file:
        for name, view in file.tensors.items():
            if not name.endswith("bias") and not name.endswith("bias_blob"):
                tensors[name] = container.Tensor(view.dtype, view.shape, view.bytes())
                continue
            dense = view.bytes()
            if view.compressed:
                dense = np.frombuffer(decompress_weight(view.layer()).tobytes(), np.uint8)
            shape = (len(dense) // 4,)
            blob = lossless.encode(dense, "F32", shape)
            tensors[name.removesuffix("_blob") + "_blob"] = container.Tensor("U8", blob.shape, blob)
    container.write_file(output, tensors)


def build_example(name: str, *options: str) -> Path:
    """Builds the example within tersor's sources; its folder, which later runs build in again."""
    build = ROOT / "build" / "example" / name
    command("cmake", "-S", ROOT / "examples" / "cpp_consumer", "-B", build,
            f"-DTERSOR_SOURCE={ROOT}", "-DCMAKE_BUILD_TYPE=Release", *options)  # fmt: skip
    command("cmake", "--build", build, "--parallel", "2")
    return build


@pytest.mark.parametrize("source", ["installed_prefix", "wheel_prefix", "add_subdirectory", "lto"])
def test_the_example_classifies_mnist(
    source: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if source == "add_subdirectory":
        build = build_example("g++-on", "-DCMAKE_CXX_COMPILER=g++")  # whose size is tested too
    elif source == "lto":
        build = build_example("lto", "-DCMAKE_INTERPROCEDURAL_OPTIMIZATION=ON")
    else:
        build = tmp_path / "build"
        command("cmake", "-S", ROOT / "examples" / "cpp_consumer", "-B", build,
                f"-DCMAKE_PREFIX_PATH={request.getfixturevalue(source)}")  # fmt: skip
        command("cmake", "--build", build)
    data = []
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        packed = (ROOT / "examples" / "mnist" / "data" / f"{name}.gz").read_bytes()
        data.append(tmp_path / name)
        data[-1].write_bytes(gzip.decompress(packed))
    rows = json.loads((ROOT / "docs" / "results.json").read_text())
    row = next(r for r in rows if (r["network"], r["method"]) == ("lenet-300-100", "best"))
    coded = tmp_path / "coded.safetensors"
    write_without_loss(ROOT / row["file"], coded)
    for model in (ROOT / row["file"], coded):
        printed = command(build / "mnist", model, *data)
        found = re.fullmatch(r"accuracy (\S+) %\n(\d+) images per second\n", printed)
        assert found, printed
        # Sums in another order may turn single images.
        assert float(found[1]) == pytest.approx(100 - row["error"], abs=0.02)
        assert int(found[2]) > 0


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("installed_prefix", "tersor"),
        ("installed_prefix", "tersor_runtime"),
        ("installed_prefix", "tersor_c"),
        ("wheel_prefix", "tersor"),
        ("wheel_prefix", "tersor_runtime"),
    ],
)
def test_a_c_program_finds_the_library_through_pkg_config(
    prefix: str, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("needs pkg-config")
    folder: Path = request.getfixturevalue(prefix)
    pc = next(folder.rglob(f"{name}.pc"))
    shared = name == "tersor_c"
    static = [] if shared else ["--static"]
    flags = command("pkg-config", *static, "--cflags", "--libs", pc).split()
    program = tmp_path / "consumer"
    source = Path(__file__).parent / "c_consumer" / "main.c"
    library = [f"-Wl,-rpath,{pc.parents[1]}"] if shared else []
    command("cc", "-std=c11", "-Wall", "-Werror", source, "-o", program, *flags, *library)
    check_consumer(program, tmp_path)
    if shared:
        assert "libtersor_c.so.0.1" in command("ldd", program)


@pytest.mark.parametrize("libdir", ["lib", "lib64", "lib/x86_64-linux-gnu", "/elsewhere/lib"])
def test_pkg_config_finds_folders_however_deep(libdir: str, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("needs pkg-config")
    build, prefix = tmp_path / "build", tmp_path / "moved"
    command("cmake", "-S", ROOT, "-B", build, f"-DCMAKE_INSTALL_LIBDIR={libdir}",
            "-DCMAKE_INSTALL_PREFIX=/usr")  # fmt: skip
    inside = not libdir.startswith("/")
    folder = (prefix / libdir if inside else tmp_path / "absolute") / "pkgconfig"
    folder.mkdir(parents=True)
    for name in ("tersor", "tersor_runtime", "tersor_c"):
        pc = shutil.copy(build / f"{name}.pc", folder)

        def variable(which: str, pc: str = pc) -> str:
            found = command("pkg-config", f"--variable={which}", pc).strip()
            return os.path.normpath(found)

        assert variable("libdir") == (str(prefix / libdir) if inside else libdir)
        assert variable("includedir") == (str(prefix / "include") if inside else "/usr/include")


def test_a_project_within_another_leaves_it_alone(tmp_path: Path) -> None:
    build = tmp_path / "build"
    example = ROOT / "examples" / "cpp_consumer"
    command("cmake", "-S", example, "-B", build, f"-DTERSOR_SOURCE={ROOT}", "-DSKBUILD=2")
    cache = (build / "CMakeCache.txt").read_text()
    for option in ("TERSOR_INSTALL", "TERSOR_SHARED", "TERSOR_PYTHON"):
        assert f"{option}:BOOL=OFF" in cache
    assert not (build / "compile_commands.json").exists()


def test_windows_is_refused_in_words(tmp_path: Path) -> None:
    refused = subprocess.run(
        ["cmake", "-S", ROOT, "-B", tmp_path, "-DCMAKE_SYSTEM_NAME=Windows",
         "-DCMAKE_CXX_COMPILER_WORKS=ON"],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert refused.returncode != 0
    assert "tersor is built on Linux and macOS" in refused.stderr


def test_the_shared_library_shows_the_c_interface_alone(installed_prefix: Path) -> None:
    library = next(installed_prefix.rglob("libtersor_c.so"))
    listed = command("nm", "-D", "--defined-only", library).splitlines()
    names = {line.split()[-1] for line in listed}
    header = (ROOT / "cpp" / "include" / "tersor" / "c_api.h").read_text()
    assert names == set(re.findall(r"(?<=[ *])(tersor_\w+)\(", header.split('extern "C"')[1]))


@pytest.mark.skipif(platform.system() != "Linux", reason="libraries are named otherwise there")
def test_the_shared_library_has_a_name_for_its_interface(installed_prefix: Path) -> None:
    shared = next(installed_prefix.rglob("libtersor_c.so"))
    (soname,) = re.findall(r"SONAME.*\[(.+)\]", command("readelf", "--dynamic", shared))
    assert re.fullmatch(r"libtersor_c\.so\.\d+\.\d+", soname)
    assert (shared.parent / soname).resolve() == shared.resolve()


def defined_names(archive: Path) -> set[str]:
    """What an archive has for programs to link to, as C++ writes it, without arguments."""
    listed = command("nm", "--demangle", "--defined-only", "--extern-only", archive).splitlines()
    parts = [line.split(" ", 2) for line in listed]
    names = {part[2].split("(")[0] for part in parts if len(part) == 3}
    return {re.sub(r"\[abi:\w+\]", "", name) for name in names}


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
        defined_names(next(installed_prefix.rglob(name)))
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


def test_the_runtime_lacks_nothing_of_its_own(installed_prefix: Path) -> None:
    archive = next(installed_prefix.rglob("libtersor_runtime.a"))
    listed = command("nm", "--demangle", archive).splitlines()
    words = [line.split(maxsplit=1) for line in listed if " U " in line]
    defined = defined_names(archive)
    missing = {rest for _, rest in words if rest.startswith("tersor")}
    assert {name.split("(")[0] for name in missing} <= defined


def test_kernels_share_no_functions_with_other_files(installed_prefix: Path) -> None:
    """A program takes one copy of an inline function: it must not be one for a level's processors,
    nor one that exceptions cannot pass."""
    archive = next(installed_prefix.rglob("libtersor_runtime.a"))
    listed = command("nm", "--print-file-name", "--demangle", archive).splitlines()
    kernels = [
        line for line in listed if re.search(r"_(scalar|avx2|avx512|amx|neon)\.cpp\.o:", line)
    ]
    assert len({line.split(" ", 1)[0] for line in kernels}) > 10
    shared = {line.split(" ", 2)[2] for line in kernels if re.search(r" [WV] ", line)}
    assert {name for name in shared if not name.startswith("tersor::")} == set()


@pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.system() != "Linux",
    reason="what takes most is kernels for x86",
)
@pytest.mark.parametrize("compiler", ["g++", "clang++-14"])
@pytest.mark.parametrize(("avx512", "limit"), [("ON", 600_000), ("OFF", 320_000)])
def test_a_program_that_runs_networks_is_small(
    compiler: str, avx512: str, limit: int, tmp_path: Path
) -> None:
    """With the kernels of all levels, and without AVX-512 and AMX; the C++ library is not in it."""
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    build = build_example(
        f"{compiler}-{avx512.lower()}",
        f"-DTERSOR_AVX512={avx512}",
        f"-DCMAKE_CXX_COMPILER={compiler}",
    )
    stripped = tmp_path / "mnist"
    command("strip", build / "mnist", "-o", stripped)
    assert stripped.stat().st_size < limit
