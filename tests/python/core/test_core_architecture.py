"""Which kernels are compiled for which processors, and how."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CPP = Path(__file__).resolve().parents[3] / "cpp" / "src"
SOURCES = sorted(path for kind in ("cpp", "hpp") for path in CPP.rglob(f"*.{kind}"))


def _kernels(compiler: str, *options: str) -> dict[str, str]:
    """What the preprocessor makes of TERSOR_X86 and its like for a target."""
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    header = CPP / "dispatch" / "architecture.hpp"
    names = ("X86", "AVX512", "AMX", "ARM64")
    text = f'#include "{header}"\n' + "\n".join(f"{name}=TERSOR_{name}" for name in names)
    done = subprocess.run(
        [compiler, *options, "-E", "-P", "-x", "c++", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.split("=") for line in done.stdout.split())


def test_an_x86_of_32_bits_has_no_kernels_of_64() -> None:
    assert set(_kernels("g++", "-m32").values()) == {"0"}


def test_kernels_that_the_build_leaves_out_bring_no_others() -> None:
    assert _kernels("g++", "-DTERSOR_AVX512=0")["AMX"] == "0"


@pytest.mark.parametrize(("target", "arm64"), [("aarch64", "1"), ("aarch64_be", "0")])
def test_neon_kernels_are_little_endian(target: str, arm64: str) -> None:
    found = _kernels("clang++-14", f"--target={target}-linux-gnu")
    assert found == {"X86": "0", "AVX512": "0", "AMX": "0", "ARM64": arm64}


def test_no_assembly_changes_the_target_of_what_follows() -> None:
    """``.arch`` in a statement resets the assembler for the rest of the file."""
    assert SOURCES
    for path in SOURCES:
        assert not re.search(r'"\s*\.(arch|cpu|fpu)\b', path.read_text()), path


def test_no_intrinsic_is_used_that_some_compilers_get_wrong() -> None:
    """GCC before 11.3 loads these into the highest lane (GCC bug 99754)."""
    for path in SOURCES:
        assert not re.search(r"_mm_loadu_si(16|32)\(", path.read_text()), path
