"""Fixtures shared by the tests of the Python package."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tersor.kernels.isa import available, compiled, use


@pytest.fixture(params=compiled())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once for each instruction set; those that the machine lacks are reported."""
    name: str = request.param
    if name not in available():
        pytest.skip(f"this machine lacks {name}")
    with use(name):
        yield name
