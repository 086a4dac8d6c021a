"""What ``import tersor`` offers."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import tersor


def test_dir_lists_what_all_names() -> None:
    assert dir(tersor) == sorted(tersor.__all__)
    assert len(set(tersor.__all__)) == len(tersor.__all__)


@pytest.mark.slow
def test_every_name_can_be_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"from tersor import {', '.join(tersor.__all__)}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_all_names_come_with_a_star() -> None:
    space: dict[str, object] = {}
    exec("from tersor import *", space)
    assert set(tersor.__all__) <= space.keys()
    assert space["open"] is tersor.open


@pytest.mark.parametrize("name", ["absent", "fit_all", "_absent"])
def test_other_names_are_missing(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'tersor' has no attribute '{name}'"):
        getattr(tersor, name)
    assert not hasattr(tersor, name)


def test_functions_are_not_hidden_by_modules_of_their_name() -> None:
    importlib.import_module("tersor.reporting.model_report")
    importlib.import_module("tersor.io.load")
    for name in ("report", "load", "save", "fuse_", "compress_", "open"):
        assert callable(getattr(tersor, name))


def test_without_torch_the_error_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import tersor\n"
        "assert tersor.Config().linear == tersor.LayerConfig()\n"
        "try: tersor.compress_\n"
        "except ImportError as error: assert 'pip install' in str(error), error\n"
        "else: raise SystemExit('no error')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
