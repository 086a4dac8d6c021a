"""The records of compressed tensors in a file's metadata."""

from __future__ import annotations

import json

import pytest

import tersor
from tersor.io.layer_records import KEY, LayerRecord, read_records, write_records


def test_records_round_trip_and_defaults_take_no_bytes() -> None:
    assert write_records({}) == {}
    assert write_records({"a": LayerRecord(), "b": LayerRecord()}) == {}
    records = {
        "a": LayerRecord("BF16"),
        "b": LayerRecord("BF16", "low"),
        "c": LayerRecord("F32", activation="relu"),
    }
    text = write_records(records)
    table = read_records(text, "f")
    assert {name: table.of(name) for name in records} == records
    assert json.loads(text[KEY])["*"] == {"dtype": "BF16"}
    assert table.of("another") == LayerRecord("BF16")


def test_what_a_newer_version_added_is_left_out() -> None:
    table = read_records({KEY: '{"a": {"precision": "low", "scale": "x"}}'}, "f")
    assert table.of("a") == LayerRecord(precision="low")


@pytest.mark.parametrize("text", ["[]", "{", '{"a": []}', '{"a": {"dtype": 1}}', "[" * 100_000])
def test_malformed_records_name_the_file(text: str) -> None:
    with pytest.raises(tersor.FormatError, match="f: metadata 'tersor.layers'"):
        read_records({KEY: text}, "f")
