"""Fixtures shared by the tests of the Python package."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tersor.kernels.isa import available, compiled, use

# Examples are judged by what they show, not by how long a busy machine takes to draw them.
settings.register_profile("tersor", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tersor")


@pytest.fixture(autouse=True)
def _compressed_execution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers run compressed unless told otherwise: what is faster here is not to decide a test."""
    from tersor.nn import Compressed  # torch, which not every test needs

    monkeypatch.setattr(Compressed, "execution", "compressed")


@pytest.fixture(params=compiled())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once for each instruction set; those that the machine lacks are reported."""
    name: str = request.param
    if name not in available():
        pytest.skip(f"this machine lacks {name}")
    with use(name):
        yield name
