"""What changed between two files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Fails, Run, bf16, f32

from tersor.io import container


def test_errors_are_those_of_the_weights(dense: Path, small: Path, run: Run) -> None:
    done = run("diff", dense, small, "--json")
    assert done.status == 1
    found = json.loads(done.stdout)
    assert found["file_bytes"] == [dense.stat().st_size, small.stat().st_size]
    by_name = {each["name"]: each for each in found["tensors"]}
    with container.open(dense) as a, container.open(small) as b:
        from tersor.codec.encode import decompress_weight

        x = a.tensors["fc.weight"].bytes().view("<f4").astype(np.float64)
        y = decompress_weight(b.tensors["fc.weight_blob"].layer()).reshape(-1)
    expected = np.linalg.norm(x - y) / np.linalg.norm(x)
    assert 0 < expected < 1
    assert by_name["fc.weight"]["relative_error"] == pytest.approx(expected, rel=1e-6)


def test_the_same_file_does_not_differ(small: Path, run: Run) -> None:
    done = run("diff", small, small)
    assert done.status == 0
    assert done.stdout.startswith("0 of ")
    assert "same bytes" in run("diff", small, small, "--all").stdout


def test_words_for_what_numbers_cannot_tell(tmp_path: Path, run: Run) -> None:
    ones = np.ones((4, 4), np.float32)
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    kept = {"kept": f32(ones), "cast": f32(ones), "shape": f32(ones), "gone": f32(ones)}
    container.write_file(a, {**kept, "zero": f32(0 * ones), "whole": f32(np.inf * ones)})
    other = {"kept": f32(ones), "cast": bf16(ones), "shape": f32(ones[:2]), "new": f32(ones)}
    container.write_file(b, {**other, "zero": f32(ones), "whole": f32(ones)})
    found = json.loads(run("diff", a, b, "--json").stdout)["tensors"]
    assert {each["name"]: each["note"] for each in found} == {
        "cast": "same values",
        "gone": "only in the first",
        "kept": "same bytes",
        "new": "only in the second",
        "shape": "shape [4, 4] and [2, 4]",
        "whole": "no numbers to compare",
        "zero": "",
    }
    assert "5 of 7" not in run("diff", a, a).stdout
    assert "6 of 7 tensors differ, 1 the same" in run("diff", a, b).stdout


def test_what_is_stored_without_loss_has_the_same_values(
    dense: Path, tmp_path: Path, run: Run, works: Run
) -> None:
    whole = tmp_path / "lossless.safetensors"
    works("compress", "--lossless", dense, "-o", whole)
    found = json.loads(run("diff", dense, whole, "--json").stdout)["tensors"]
    by_name = {each["name"]: each for each in found}
    assert all(each["relative_error"] == 0 for each in found)
    assert by_name["fc.weight"]["note"] == "same values"
    assert by_name["fc.weight"]["bytes_b"] < by_name["fc.weight"]["bytes_a"]


def test_a_file_that_is_not_there(small: Path, tmp_path: Path, fails: Fails) -> None:
    assert "none.safetensors" in fails("diff", small, tmp_path / "none.safetensors")
