"""Fixtures shared by the tests of the Python package."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tersor import isa as isa_levels


@pytest.fixture(params=isa_levels.compiled())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once for each instruction set; those that the machine lacks are reported."""
    name: str = request.param
    if name not in isa_levels.available():
        pytest.skip(f"this machine lacks {name}")
    with isa_levels.use(name):
        yield name
