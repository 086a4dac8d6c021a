"""The fastest class for each layer within an error of the output."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import tersor
from tersor import Config, LayerConfig

X = torch.randn(16, 128, generator=torch.Generator().manual_seed(1))


def _model() -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 96), nn.ReLU(), nn.Linear(96, 64))
    layer = LayerConfig(codebook_size=15, density=0.3, precision="medium")
    return tersor.compress_(model.eval(), Config(linear=layer))


def _error(model: Any) -> float:
    exact = copy.deepcopy(model)
    for layer in exact[::2]:
        layer.precision = "highest"
    return float((model(X) - exact(X)).norm() / exact(X).norm())


@pytest.mark.parametrize("tolerance", [1.0, 1e-2, 1e-4, 1e-12])
def test_the_output_stays_within_the_tolerance(tolerance: float) -> None:
    model = _model()
    chosen = tersor.calibrate_precision(model, [X], tolerance)
    assert chosen.layers == {"0": model[0].precision, "2": model[2].precision}
    assert chosen.error <= tolerance
    assert _error(model) == pytest.approx(chosen.error, rel=1e-3, abs=1e-12)
    assert "execution" not in model[0].__dict__
    if tolerance == 1.0:
        assert set(chosen.layers.values()) == {"low"}
    lowest = _model()
    for layer in lowest[::2]:
        layer.precision = "low"
    # Where the classes of this batch share a kernel, the lowest is as exact as any.
    if tolerance == 1e-12 and _error(lowest) > tolerance:
        assert set(chosen.layers.values()) <= {"high", "highest"}
    assert "error of the output" in str(chosen)


def test_a_larger_tolerance_never_asks_for_a_more_exact_class() -> None:
    order = ["low", "medium", "high", "highest"]
    before = [0, 0]
    for tolerance in (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
        chosen = tersor.calibrate_precision(_model(), [X[:4], X[4:]], tolerance).layers
        now = [order.index(chosen[name]) for name in ("0", "2")]
        assert sum(now) >= sum(before)
        before = now


def test_what_cannot_be_calibrated() -> None:
    with pytest.raises(ValueError, match="tolerance must be positive, not 0"):
        tersor.calibrate_precision(_model(), [X], 0)
    with pytest.raises(ValueError, match="has no compressed layers"):
        tersor.calibrate_precision(nn.Sequential(nn.Linear(4, 4)), [X], 0.1)
    model = _model()
    with pytest.raises(ValueError, match="data holds no batches"):
        tersor.calibrate_precision(model, [], 0.1)
    with pytest.raises(ValueError, match=r"x has shape \[2, 3\]"):
        tersor.calibrate_precision(model, [torch.randn(2, 3)], 0.1)
    assert [layer.precision for layer in model[::2]] == ["medium", "medium"]
