"""The demo's parts; the whole of it is ``make demo``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import demo  # noqa: E402
from tersor.config import Config  # noqa: E402
from tersor.io import checkpoint  # noqa: E402
from tersor.pipeline.compress import compress_  # noqa: E402

DATA = Path(__file__).resolve().parents[2] / "examples" / "mnist"


def test_data_is_found_from_inside_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DATA / "data")
    assert demo.find_data() == DATA
    assert demo.find_data(DATA) == DATA


def test_missing_data_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--data"):
        demo.find_data(tmp_path)


def test_unknown_net_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="alexnet"):
        demo.run(data=DATA, output=tmp_path / "demo.json", nets=["alexnet"])


def test_promises() -> None:
    assert demo.broken_promises("lenet-5", 0.80, 60.0) == []
    assert len(demo.broken_promises("lenet-5", 0.81, 59.9)) == 2
    assert "1.65" in demo.broken_promises("lenet-300-100", 1.65, 100.0)[0]
    assert len(demo.broken_promises("lenet-300-100", float("nan"), 100.0)) == 1


def test_latencies_alternate() -> None:
    order: list[str] = []
    times = demo.latencies(lambda: order.append("a"), lambda: order.append("b"), rounds=2, calls=3)
    assert "".join(order) == "aaaabbbb" * 2
    assert [len(side) for side in times] == [2, 2]
    assert min(times[0] + times[1]) > 0


def test_fresh_process_judges_a_file(tmp_path: Path) -> None:
    net = "lenet-300-100"
    model = demo._dense(DATA, net)
    compress_(model, Config())  # 4-bit codes, nothing pruned: close to the dense net
    checkpoint.save(model, tmp_path / "net.safetensors")
    done = subprocess.run(
        [sys.executable, DATA / "demo.py", "--net", net, "--measure", tmp_path / "net.safetensors"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    measured = demo.Measured(**json.loads(done.stdout))
    assert measured.error_dense <= 1.64
    assert measured.error_compressed == pytest.approx(measured.error_dense, abs=1.0)
    assert 0 < measured.latency_dense_us <= measured.latency_dense_median_us
    assert 0 < measured.latency_compressed_us <= measured.latency_compressed_median_us
