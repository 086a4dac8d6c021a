"""Further names of tensors in a file's metadata."""

from __future__ import annotations

import json

import pytest

import tersor
from tersor.io.aliases import KEY, read_aliases, write_aliases


def test_names_round_trip_and_those_of_layers_end_as_their_blobs() -> None:
    assert write_aliases({}) == {}
    aliases = {"head.weight": "wte.weight", "b.bias": "a.bias", "d.gain": "c.gain"}
    stored = {"wte.weight_blob": True, "a.bias_blob": True, "c.gain": False}
    text = write_aliases(aliases, blobs={"wte.weight"})
    assert json.loads(text[KEY])["head.weight_blob"] == "wte.weight_blob"
    assert json.loads(text[KEY])["b.bias"] == "a.bias"  # a vector goes by its own name
    assert read_aliases(text, stored, "f") == aliases


@pytest.mark.parametrize(
    "text",
    ["[", "[]", '{"a": 1}', '{"a": "absent"}', '{"w": "w"}', "[" * 100_000],
)
def test_malformed_entries_name_the_file(text: str) -> None:
    with pytest.raises(tersor.FormatError, match=r"^f: .*(tersor\.aliases|stands for)"):
        read_aliases({KEY: text}, {"w": False}, "f")
