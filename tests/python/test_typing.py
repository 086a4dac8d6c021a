"""The types that callers see; mypy checks this file too."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from typing_extensions import assert_type

import tersor
from tersor.io.load import Checkpoint


def _saved(folder: Path) -> Path:
    tersor.save(tersor.compress_(nn.Linear(64, 64)), folder / "m")
    return folder / "m"


def test_load_gives_a_model_where_one_is_given(tmp_path: Path) -> None:
    path = _saved(tmp_path)
    assert_type(tersor.load(path), Checkpoint)
    assert_type(tersor.load(path, max_bytes=1 << 20), Checkpoint)
    assert_type(tersor.load(path, nn.Linear(64, 64)), nn.Module)
    assert_type(tersor.load(path, nn.Linear(64, 64), precision="low", strict=False), nn.Module)
    assert_type(tersor.load_file(path), Checkpoint)
    assert_type(tersor.load_model(path, nn.Linear(64, 64)), nn.Module)
    assert type(tersor.load(path)) is Checkpoint
    assert isinstance(tersor.load(path, nn.Linear(64, 64)), nn.Module)


def test_compress_and_report() -> None:
    model = assert_type(tersor.compress_(nn.Linear(64, 64)), nn.Module)
    assert assert_type(tersor.report(model).ratio, float) > 1
    assert assert_type(tersor.estimate(nn.Linear(64, 64)).compressed_bytes, int) > 0
    assert isinstance(assert_type(tersor.decompress_(model), nn.Module), nn.Linear)


def test_names_of_settings_are_literals() -> None:
    settings = tersor.LayerConfig(precision="low", method="ecsq", kind="shared_fp16")
    assert (settings.precision, settings.method, settings.kind) == ("low", "ecsq", "shared_fp16")
