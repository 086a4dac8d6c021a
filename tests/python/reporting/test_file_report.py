"""The table is the sum of the counts of the streams, in each accounting."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tersor._core import FormatError
from tersor.codec import csr
from tersor.codec.blob import BlobInfo, CompressedTensor, encode_blob, inspect_blob
from tersor.io import container
from tersor.io.layer_records import LayerRecord, write_records
from tersor.reporting.file_report import (
    LayerRow,
    Report,
    layer_row,
    report,
    report_tensors,
    to_json,
    to_table,
    to_text,
)


def info(**changes: object) -> BlobInfo:
    """LeNet-300-100's ip1 as the paper has it: 235,200 weights at 8 %, 6-bit codes, 5-bit gaps."""
    fields: dict[str, object] = {
        "shape": (300, 784), "kind": "shared_fp32", "index_bits": 5, "flat": True,
        "weights": 235_200, "nonzeros": 18_816, "entries": 21_074, "clusters": 63,
        "header_bytes": 20, "value_bytes": 252, "code_bytes": 11_700, "code_bits": 92_000,
        "gap_bytes": 9_800, "gap_bits": 78_000, "row_length_bytes": 0, "total_bytes": 21_772,
    }  # fmt: skip
    return BlobInfo(**{**fields, **changes})  # type: ignore[arg-type]


def test_row_is_the_papers_formula_on_counts() -> None:
    row = layer_row("ip1", info())
    n, f, p = 235_200, 21_074 / 18_816, 0.08
    assert row.weight_bits_pq == 6
    assert row.density == pytest.approx(p)
    assert row.filler_factor == pytest.approx(f)
    assert row.rate_pq == pytest.approx(f * p * (6 + 5) / 32 + 2**6 / n)
    assert round(100 * row.rate_pq, 1) == 3.1  # as printed in the paper
    assert row.rate_pqh == pytest.approx((92_000 + 78_000 + 32 * 64) / (32 * n))
    assert row.weight_bits_pqh == pytest.approx(92_000 / 21_074)
    assert row.index_bits_pqh == pytest.approx(78_000 / 21_074)


@pytest.mark.parametrize(
    ("clusters", "width"), [(1, 1), (2, 2), (3, 2), (4, 3), (15, 4), (16, 5), (255, 8)]
)
def test_width_counts_the_zero(clusters: int, width: int) -> None:
    assert layer_row("a", info(clusters=clusters)).weight_bits_pq == width


def test_row_lengths_count_in_both_forms() -> None:
    flat, rows = layer_row("a", info()), layer_row("a", info(flat=False, row_length_bytes=100))
    assert rows.paper_bits_pq - flat.paper_bits_pq == 800
    assert rows.paper_bits_pqh - flat.paper_bits_pqh == 800


@pytest.mark.parametrize(("kind", "bits"), [("plain_fp32", 32), ("plain_fp16", 16)])
def test_plain_values_count_without_a_codebook(kind: str, bits: int) -> None:
    value_bytes = 18_816 * bits // 8
    row = layer_row("a", info(kind=kind, clusters=0, value_bytes=value_bytes, code_bits=9_000))
    assert row.paper_bits_pq == 21_074 * (bits + 5)
    assert row.paper_bits_pqh == 18_816 * bits + 9_000 + 78_000


def test_empty_and_all_zero_layers_have_finite_rows() -> None:
    empty = layer_row(
        "a", info(weights=0, nonzeros=0, entries=0, clusters=0, code_bits=0, gap_bits=0)
    )
    assert (empty.rate_pq, empty.density, empty.filler_factor) == (0, 0, 0)
    zero = layer_row("a", info(nonzeros=0, entries=0, clusters=0, code_bits=0, gap_bits=0))
    assert zero.rate_pqh == 0


@pytest.fixture
def real(tmp_path: Path) -> tuple[Report, Path]:
    rng = np.random.default_rng(3)
    tensors = {}
    for name, shape in {"a": (40, 60), "b": (10, 40)}.items():
        codes = rng.integers(1, 16, shape, dtype=np.uint8)
        codes[rng.random(shape) > 0.15] = 0
        values = np.sort(rng.normal(size=15)).astype(np.float32)
        blob = encode_blob(CompressedTensor(shape, "shared_fp32", csr.encode(codes, 4), values))
        tensors[f"{name}.weight_blob"] = container.Tensor("U8", (blob.size,), blob.tobytes())
        bias = rng.normal(size=shape[0]).astype(np.float32)
        tensors[f"{name}.bias"] = container.Tensor("F32", bias.shape, bias.tobytes())
    tensors["steps"] = container.Tensor("I64", (1,), bytes(8))
    path = tmp_path / "m.safetensors"
    container.write_file(path, tensors)
    with container.open(path) as file:
        return report(file), path


def test_totals_add_up_to_the_file(real: tuple[Report, Path]) -> None:
    table, path = real
    totals = table.totals
    assert totals.file_bytes == path.stat().st_size
    assert totals.blob_bytes + totals.other_bytes + totals.header_bytes == totals.file_bytes
    assert totals.header_bytes > 8
    assert totals.other_bytes == 4 * 50 + 8
    assert totals.weights == 40 * 60 + 10 * 40
    assert totals.parameters == totals.weights + 50
    assert totals.dense_bytes == totals.dense_bytes_fp32 == 4 * totals.parameters + 8
    assert totals.ratio_file == pytest.approx(totals.dense_bytes / path.stat().st_size)
    assert totals.ratio_fp32 == totals.ratio_file
    assert totals.ratio_paper == pytest.approx(1 / totals.rate_pqh)
    assert totals.nonzeros == sum(row.nonzeros for row in table.rows)
    assert [row.name for row in table.rows] == sorted(row.name for row in table.rows)


@pytest.mark.parametrize(
    ("dtype", "width"), [("BF16", 2), ("F16", 2), ("F32", 4), ("F64", 8), ("F8_E4M3", 1)]
)
def test_real_bytes_are_those_of_the_types_that_tensors_have(dtype: str, width: int) -> None:
    codes = np.eye(64, dtype=np.uint8)
    values = np.ones(1, np.float32)
    blob = encode_blob(CompressedTensor((64, 64), "shared_fp32", csr.encode(codes, 4), values))
    tensors = {
        "a.weight_blob": container.Tensor("U8", blob.shape, blob),
        "a.bias": container.Tensor(dtype, (64,), bytes(64 * width)),
        "steps": container.Tensor("I64", (1,), bytes(8)),
    }
    metadata = write_records({"a.weight": LayerRecord(dtype)})
    table = report_tensors(tensors, metadata, 2000)
    row, totals = table.rows[0], table.totals
    assert (row.dtype, row.dense_bytes) == (dtype, 64 * 64 * width)
    assert row.ratio == pytest.approx(row.dense_bytes / blob.size)
    assert totals.dense_bytes == width * (64 * 64 + 64) + 8
    assert totals.dense_bytes_of_layers == row.dense_bytes
    assert totals.ratio_file == pytest.approx(totals.dense_bytes / 2000)
    # The literature's accounting stands beside it, and does not depend on the type.
    assert totals.dense_bytes_fp32 == 4 * (64 * 64 + 64) + 8
    assert row.rate_pqh == layer_row("a.weight", inspect_blob(blob)).rate_pqh


def test_a_coded_vector_counts_as_32_bit_floats() -> None:
    vector = csr.encode(np.ones((100, 1), np.uint8), 4)
    blob = encode_blob(CompressedTensor((100,), "shared_fp32", vector, np.ones(1, np.float32)))
    tensors = {"b_blob": container.Tensor("U8", blob.shape, blob)}
    totals = report_tensors(tensors, {}, 500).totals
    assert (totals.dense_bytes, totals.parameters, totals.weights) == (400, 100, 0)


def test_an_unknown_type_in_the_records_is_malformed() -> None:
    blob = encode_blob(
        CompressedTensor(
            (1, 9), "shared_fp32", csr.encode(np.ones((1, 9), np.uint8), 4), np.ones(1, np.float32)
        )
    )
    tensors = {"a_blob": container.Tensor("U8", blob.shape, blob)}
    with pytest.raises(FormatError, match="'a' was of the unknown type F3"):
        report_tensors(tensors, write_records({"a": LayerRecord("F3")}), 100)


def test_text_leads_with_real_bytes(real: tuple[Report, Path]) -> None:
    lines = to_text(real[0]).splitlines()
    for name in ("a.weight", "b.weight", "total"):
        assert sum(line.startswith(name) for line in lines) == 1
    assert [line.split(":")[0] for line in lines[-3:]] == [
        "file bytes",
        "fp32 accounting",
        "paper accounting",
    ]
    totals = real[0].totals
    assert f"{totals.dense_bytes:,} -> {totals.file_bytes:,} bytes" in lines[-3]
    columns = ["dense bytes", "ratio", "density", "wbits", "of fp32"]
    places = [lines[0].index(column) for column in columns]
    assert places == sorted(places)


def test_the_table_has_the_columns_of_the_text(real: tuple[Report, Path]) -> None:
    pytest.importorskip("rich")
    headings = [str(column.header) for column in to_table(real[0]).columns]
    assert headings[:6] == ["layer", "type", "#weights", "dense bytes", "bytes", "ratio"]


def test_json_round_trips(real: tuple[Report, Path]) -> None:
    data = json.loads(json.dumps(to_json(real[0])))
    rows = tuple(LayerRow(**{**row, "shape": tuple(row["shape"])}) for row in data["layers"])
    assert rows == real[0].rows
    assert data["totals"]["file_bytes"] == real[0].totals.file_bytes
    assert list(data["totals"])[:5] == [
        "dense_bytes", "file_bytes", "ratio_file", "dense_bytes_fp32", "ratio_fp32"
    ]  # fmt: skip
