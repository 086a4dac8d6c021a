"""Runs clang-tidy over the C++ library, each file once for every state it has not passed in yet.

A file whose text, headers and configuration are unchanged since it passed is not checked again: the
stamp beside the build is a hash of them all.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
# The build's flags may be those of GCC, of which Clang does not know all.
_OF_GCC = [
    "--extra-arg=-Wno-ignored-optimization-argument",
    "--extra-arg=-Wno-unknown-warning-option",
]


def main() -> int:
    """Configures a build for its compile commands, then checks; non-zero when anything is found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, required=True)
    build: Path = parser.parse_args().build
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(
        ["cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja"],
        check=True,
        stdout=subprocess.DEVNULL,
        env=environment,
    )
    shared = hashlib.sha256((ROOT / ".clang-tidy").read_bytes())
    for header in sorted(ROOT.glob("cpp/**/*.[hd][pe][pf]")):
        shared.update(header.read_bytes())
    stamps = build / "tidy"
    stamps.mkdir(exist_ok=True)

    def check(source: Path) -> tuple[Path, str]:
        state = shared.copy()
        state.update(source.read_bytes())
        stamp = stamps / "-".join(source.relative_to(ROOT / "cpp" / "src").with_suffix("").parts)
        if stamp.exists() and stamp.read_text() == state.hexdigest():
            return source, ""
        done = subprocess.run(
            [str(BIN / "clang-tidy"), "--quiet", *_OF_GCC, "-p", str(build), str(source)],
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            stamp.write_text(state.hexdigest())
            return source, ""
        return source, done.stdout + done.stderr

    failed = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for source, findings in pool.map(check, sorted(ROOT.glob("cpp/src/**/*.cpp"))):
            if findings:
                failed += 1
                print(f"== {source.relative_to(ROOT)}\n{findings}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
