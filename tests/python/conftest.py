"""Fixtures shared by the tests of the Python package."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tersor.kernels.isa import available, compiled, use

# Examples are judged by what they show, not by how long a busy machine takes to draw them.
settings.register_profile("tersor", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tersor")


@pytest.fixture(params=compiled())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once for each instruction set; those that the machine lacks are reported."""
    name: str = request.param
    if name not in available():
        pytest.skip(f"this machine lacks {name}")
    with use(name):
        yield name
