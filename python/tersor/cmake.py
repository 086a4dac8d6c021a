"""Where CMake finds the C++ library inside the installed package.

``cmake -DCMAKE_PREFIX_PATH=$(python -m tersor.cmake --prefix) …``, then
``find_package(tersor CONFIG REQUIRED)`` and link ``tersor::tersor``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tersor import _core


def prefix() -> Path:
    """The folder that belongs in ``CMAKE_PREFIX_PATH``.

    It lies beside the compiled module, which in an editable installation is not where the Python
    sources are.

    Raises:
        FileNotFoundError: this installation carries no C++ library.
    """
    folder = Path(_core.__file__).resolve().parent / "native"
    if not (folder / "include" / "tersor" / "tersor.hpp").is_file():
        raise FileNotFoundError(f"{folder}: this installation of tersor has no C++ library in it")
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the prefix; the exit status is 1 when there is none."""
    parser = argparse.ArgumentParser(prog="python -m tersor.cmake", description=__doc__)
    parser.add_argument("--prefix", action="store_true", required=True, help="print the prefix")
    parser.parse_args(arguments)
    try:
        print(prefix())
    except FileNotFoundError as error:
        print(f"tersor: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
