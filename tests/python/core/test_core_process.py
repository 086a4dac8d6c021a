"""What must not end the process: too little memory, a wrong level, a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

PREAMBLE = """
import numpy as np
from tersor import _core

def pack(rows, cols, threads=1):
    rng = np.random.default_rng(0)
    codes = (rng.random((rows, cols)) < 0.3) * rng.integers(1, 16, (rows, cols))
    parts = _core.csr_encode(codes.astype(np.uint8), 4, False)
    codebook = np.concatenate([[0], rng.normal(size=15)]).astype(np.float32)
    return lambda: _core.spmm_pack(*parts, codebook, None, 1, "high", threads)
"""


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = PREAMBLE + textwrap.dedent(script)
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited as on Linux")
@pytest.mark.parametrize("threads", [1, 2])
def test_out_of_memory_is_a_memory_error(threads: int) -> None:
    done = run(
        f"""
        import resource
        make = pack(4096, 1024, {threads})
        make()  # OpenMP starts its threads, and ends the process where it cannot
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        old = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), old[1]))
        try:
            kept = [make() for _ in range(100)]
        except MemoryError:
            print("memory error")
        resource.setrlimit(resource.RLIMIT_AS, old)
        print(make().nonzeros > 0)
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["memory error", "True"]


@pytest.mark.parametrize(
    "call",
    [
        "pack(64, 512)()",
        "_core.isa_in_use()",
        "_core.huffman_histogram(np.zeros(3000, np.uint8))",
        "_core.write_file(path, [('t', 'U8', [5000], np.zeros(5000, np.uint8))], [], False)",
        "_core.File.open(path, 1 << 40)",
    ],
)
def test_a_wrong_level_is_a_value_error(tmp_path, call: str) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"\\x02\\0\\0\\0\\0\\0\\0\\0{}" + bytes(3000))
    done = run(
        f"""
        path = {str(tmp_path / "m.safetensors")!r}
        try:
            {call}
        except ValueError as error:
            print(error)
        """,
        TERSOR_ISA="avx1024",
    )
    assert done.returncode == 0, done.stderr
    assert "TERSOR_ISA=avx1024" in done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is nothing to fork")
def test_a_child_multiplies_while_its_parent_packs() -> None:
    done = run(
        """
        import os, threading
        make = pack(300, 200)
        stop = threading.Event()
        def busy():
            while not stop.is_set():
                make()
        threads = [threading.Thread(target=busy) for _ in range(2)]
        for thread in threads: thread.start()
        codes = []
        for _ in range(50):
            child = os.fork()
            if child == 0:
                os._exit(0 if make().nonzeros > 0 else 1)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        stop.set()
        for thread in threads: thread.join()
        print(codes == [0] * 50)
        """
    )
    assert done.stdout.strip() == "True", done.stderr
