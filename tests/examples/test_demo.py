"""The demo's parts; the whole of it is ``make demo``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tersor
from examples.mnist import demo
from examples.mnist.models import dense_model

ROOT = Path(__file__).resolve().parents[2]


def test_unknown_net_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="alexnet"):
        demo.run(tmp_path / "demo.json", nets=["alexnet"])


def test_what_misses_a_threshold_fails() -> None:
    assert demo.failed_checks("lenet-5", 0.80, 60.0) == []
    assert len(demo.failed_checks("lenet-5", 0.81, 59.9)) == 2
    assert "1.65" in demo.failed_checks("lenet-300-100", 1.65, 100.0)[0]
    assert len(demo.failed_checks("lenet-300-100", float("nan"), 100.0)) == 1


def test_latencies_alternate() -> None:
    order: list[str] = []
    times = demo.latencies(lambda: order.append("a"), lambda: order.append("b"), rounds=2, calls=3)
    assert "".join(order) == "aaaabbbb" * 2
    assert [len(side) for side in times] == [2, 2]


@pytest.mark.slow
def test_fresh_process_judges_a_file(tmp_path: Path) -> None:
    net = "lenet-300-100"
    path = tmp_path / "net.safetensors"
    # 4-bit codes, nothing pruned: close to the dense net.
    tersor.save(tersor.compress_(dense_model(net).eval(), tersor.Config()), path)
    command = [sys.executable, "-m", "examples.mnist.demo", "--net", net, "--measure", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    measured = demo.Measured(**json.loads(done.stdout))
    assert measured.error_dense <= 1.64
    assert measured.error_compressed == pytest.approx(measured.error_dense, abs=1.0)
    assert 0 < measured.latency_dense_us <= measured.latency_dense_median_us
    assert 0 < measured.latency_compressed_us <= measured.latency_compressed_median_us
