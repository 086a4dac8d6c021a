"""docs/transcript.md shows what its commands print."""

from __future__ import annotations

import pytest

from tests.docs.blocks import blocks
from tests.docs.transcript import compared, recorded, replayed

PAGE = list(recorded(blocks("docs/transcript.md", "console")))


def test_there_are_ten_commands_at_least() -> None:
    assert len(PAGE) >= 10
    assert all(output for command, output in PAGE if "--quiet" not in command)


@pytest.mark.slow
def test_the_commands_print_what_the_page_shows() -> None:
    now = dict(replayed([command for command, _ in PAGE]))
    for command, output in PAGE:
        assert compared(command, now[command]) == compared(command, output), command


def test_only_the_digits_of_times_are_left_out() -> None:
    assert compared("tersor bench a", "fc  12.5   1,000.0\n") == "fc # #\n"
    assert compared("tersor env", "threads: 2\n") == "threads:\n"
    assert compared("tersor inspect a", "fc 12\n") == "fc 12\n"
