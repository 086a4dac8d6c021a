"""The documents as a site: built without a warning, as ``make docs`` does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(name="site", scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


def test_every_page_is_built(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("")
        index = name.stem in ("index", "README")
        assert (site / (name.parent if index else name) / "index.html").is_file(), page


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = r'<(?:script|link|img)[^>]* (?:src|href)="?(https?:[^" >]+)'
        assert re.findall(loaded, page.read_text("utf-8")) == [], page


def test_the_api_shows_what_docstrings_say(site: Path) -> None:
    text = (site / "api" / "index.html").read_text("utf-8")
    assert "each supported layer becomes a module that runs compressed" in text
    assert ":func:" not in text
    assert ":class:" not in text
