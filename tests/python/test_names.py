"""Names of layers: wrappers, patterns, hints."""

from __future__ import annotations

import pytest

from tersor._names import joined, listed, matches, near, without_wrappers


@pytest.mark.parametrize(
    ("name", "prefix", "plain"),
    [
        ("fc.weight", "", "fc.weight"),
        ("_orig_mod.fc.weight", "", "fc.weight"),
        ("a._orig_mod.fc", "", "a.fc"),
        ("module.fc", "module.", "fc"),
        ("module._orig_mod.fc", "module.", "fc"),
        ("module.module.fc", "module.", "module.fc"),
        ("module.fc", "", "module.fc"),
        ("", "", ""),
    ],
)
def test_wrappers_are_taken_off(name: str, prefix: str, plain: str) -> None:
    assert without_wrappers(name, prefix) == plain


@pytest.mark.parametrize(
    ("pattern", "names", "expected"),
    [
        ("fc", ["fc"], True),
        ("fc.weight", ["fc"], True),
        ("weight", [""], True),
        ("", [""], True),
        ("b", ["a", "b"], True),
        ("layers.?.fc", ["layers.3.fc"], True),
        ("FC", ["fc"], False),
        ("fc", ["fc2"], False),
        ("fc.bias", ["fc"], False),
        ("[[]a]", ["[a]"], True),
    ],
)
def test_patterns_match_a_layer_or_its_weight(
    pattern: str, names: list[str], expected: bool
) -> None:
    assert matches(pattern, names) == expected


def test_joined() -> None:
    assert (joined("a.b", "weight"), joined("", "weight")) == ("a.b.weight", "weight")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("encodr.fc", "; there are encoder.fc"),
        ("zzz", "; there are encoder.fc, head"),
        ("haed", "; there are head"),
    ],
)
def test_near_names_are_shown(name: str, hint: str) -> None:
    assert near(name, ["encoder.fc", "head"]) == hint
    assert near(name, []) == ""


def test_long_lists_are_cut() -> None:
    assert listed([str(i) for i in range(5)]) == "0, 1, 2, 3, 4"
    assert listed([str(i) for i in range(40)]) == "0, 1, 2, 3, 4 and 35 others"
