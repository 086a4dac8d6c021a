"""What the page says of transformers' own files."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.compat.cases import Case
from tests.compat.families import FAMILIES


def _llama(folder: Path) -> Case:
    return Case(next(f for f in FAMILIES if f.name == "llama"), torch.float32, folder)


def test_a_decompressed_model_comes_back(tmp_path: Path) -> None:
    case = _llama(tmp_path)
    case.decompressed.save_pretrained(tmp_path)
    back = type(case.dense).from_pretrained(tmp_path).eval()
    assert torch.equal(case.run(back), case.run(case.decompressed))


def test_a_compressed_model_comes_back(tmp_path: Path) -> None:
    case = _llama(tmp_path)
    case.compressed.save_pretrained(tmp_path)
    back, info = type(case.dense).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert torch.equal(case.run(back), case.run(case.compressed))
