"""Threads that this process may use, and the bar."""

from __future__ import annotations

import io
import os
import sys

import pytest

from tersor.cli.progress import default_threads, progress_bar, quietly, say


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process")
def test_threads_are_those_of_this_process() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert default_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert default_threads() == len(allowed)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(_Terminal(), True), (io.StringIO(), False)])
def test_the_bar_is_for_terminals(
    stream: io.StringIO, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("compress", 10) as advance:
        advance(10)
    assert ("compress" in stream.getvalue()) is shown


def test_nothing_is_shown_where_all_is_to_be_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with quietly():
        say("a line")
        with progress_bar("compress", 10) as advance:
            advance(10)
    assert terminal.getvalue() == capsys.readouterr().out == ""
    with quietly(False):
        say("a line")
    say("another")
    assert capsys.readouterr().out == "a line\nanother\n"
