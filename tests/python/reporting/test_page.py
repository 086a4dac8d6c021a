"""The HTML page: well formed, complete, and true to the file."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tersor.codec.blob import encode_blob
from tersor.codec.encode import compress_weight
from tersor.config import LayerConfig
from tersor.io.container import Tensor, file_bytes
from tersor.reporting.page import render

pytest.importorskip("jinja2")

_VOID = {"meta", "link", "input", "path", "wbr"}


class _Page(HTMLParser):
    """Checks that tags are closed in turn, and collects tables and what is fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.fetched: list[str] = []
        self.paths: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.fetched += [found[name] or "" for name in ("src", "href") if name in found]
        if tag == "path":
            self.paths.append(found["d"] or "")
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["td"]:
            self.rows[-1][-1] += data.strip()


def _file(names: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = np.random.default_rng(1)
    tensors = {}
    for name, shape in names.items():
        weight = generator.normal(size=shape).astype(np.float32)
        weight[np.abs(weight) < 0.5] = 0
        blob = encode_blob(compress_weight(weight, LayerConfig(codebook_size=15)))
        tensors[f"{name}_blob"] = Tensor("U8", blob.shape, blob)
    tensors["norm"] = Tensor("F32", (8,), np.ones(8, np.float32))
    return tensors


def _render(tensors: dict[str, Tensor], **options: object) -> _Page:
    size = file_bytes(tensors, {})
    return _Page(render(tensors, {}, size, title="a <b> & c", **options))  # type: ignore[arg-type]


def test_every_layer_and_tensor_is_there() -> None:
    tensors = _file({"fc.weight": (40, 60), "conv.weight": (8, 4, 3, 3)})
    page = _render(tensors)
    rows = {row[0]: row for row in page.rows if row}
    assert {"fc.weight", "conv.weight", "norm", "total"} <= rows.keys()
    table = [row for row in page.rows if row[:1] == ["fc.weight"]]
    assert table[0][1] == f"{tensors['fc.weight_blob'].nbytes:,}"
    assert page.fetched == ["data:,"]  # one file, nothing from elsewhere
    assert len(page.paths) == 4
    assert all(re.fullmatch(r"(M[\d.]+ 120v-[\d.]+)+", path) for path in page.paths)
    # Fifteen values, each of which has a bar.
    assert page.paths[0].count("M") == 15


def test_errors_and_times_have_columns_where_they_are_known() -> None:
    tensors = _file({"fc.weight": (40, 60), "head.weight": (10, 40)})
    page = _render(tensors, errors={"fc.weight": 0.1234}, times={"head": (2.0, 0.5)})
    rows = {row[0]: row for row in page.rows if len(row) == 13}
    assert rows["fc.weight"][4:7] == ["12.34", "", ""]
    assert rows["head.weight"][4:7] == ["", "0.500", "2.000"]


def test_names_are_text_and_not_markup() -> None:
    text = render(_file({"<i>x</i>.weight": (4, 4)}), {}, 1000, title="<script>")
    assert "<i>x" not in text
    assert "<title>&lt;script&gt;" in text


def test_a_file_without_compressed_layers() -> None:
    page = _render({"norm": Tensor("F32", (8,), np.ones(8, np.float32))})
    assert [row[0] for row in page.rows if row] == ["norm", "total"]


def test_what_is_stored_without_loss_has_its_own_name_and_sizes() -> None:
    values = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    stored = Tensor("F32", values.shape, values).coded()
    assert stored.nbytes < values.nbytes
    page = _render({"norm_blob": stored})
    row = next(row for row in page.rows if row[:1] == ["norm"])
    assert row == ["norm", "F32", "64 × 64", f"{values.nbytes:,}", f"{stored.nbytes:,}"]


def test_pruned_without_a_codebook_and_empty_layers() -> None:
    generator = np.random.default_rng(1)
    weight = generator.normal(size=(8, 8)).astype(np.float32)
    plain = encode_blob(compress_weight(weight, LayerConfig(kind="plain_fp32")))
    zero = encode_blob(compress_weight(0 * weight, LayerConfig()))
    page = _render(
        {
            "a.weight_blob": Tensor("U8", plain.shape, plain),
            "b.weight_blob": Tensor("U8", zero.shape, zero),
        }
    )
    assert {"a.weight", "b.weight"} <= {row[0] for row in page.rows if row}
