"""The page of supported layers says what the suite expects."""

from __future__ import annotations

from tests.compat.table import PAGE, page


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run python -m tests.compat.table"
