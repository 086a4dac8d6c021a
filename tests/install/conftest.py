"""The installed library: from a build tree, and in the installed Python package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.install.commands import ROOT, command


@pytest.fixture(scope="session")
def installed_prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``cmake --install`` makes of a build tree: that of the C++ tests, or one of its own."""
    build = ROOT / "build" / "cpp"
    if not (build / "CMakeCache.txt").is_file():
        build = ROOT / "build" / "install"
        command("cmake", "-S", ROOT, "-B", build, "-DTERSOR_TESTS=OFF")
    libraries = ("tersor", "tersor_runtime", "tersor_c")
    command("cmake", "--build", build, "--target", *libraries, "--parallel", "2")
    prefix = tmp_path_factory.mktemp("prefix")
    command("cmake", "--install", build, "--prefix", prefix)
    return prefix


@pytest.fixture(scope="session")
def wheel_prefix() -> Path:
    """What lies in the installed Python package."""
    return Path(command(sys.executable, "-m", "tersor.cmake", "--prefix").strip())
