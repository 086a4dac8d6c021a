"""The inner loops that docs/kernels shows are run, on matrices that numpy multiplies too."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.docs.blocks import blocks

RNG = np.random.default_rng(5)
CODEBOOK = np.array([0, -3.0, -1.0, 0.5, 2.0], np.float32)


def matrix(rows: int, cols: int) -> npt.NDArray[np.intp]:
    """Codes, of which three in four are 0: pruned."""
    return np.where(RNG.random((rows, cols)) < 0.75, 0, RNG.integers(1, 5, (rows, cols)))


def test_csr16() -> None:
    codes, x = matrix(6, 40), RNG.normal(size=40)
    parts = []
    for first in (0, 16, 32):  # blocks of 16 columns stand for those of 65,536
        part = codes[:, first : first + 16]
        starts = np.concatenate([[0], np.cumsum((part > 0).sum(1))])
        columns, kept = np.nonzero(part)[1], part[part > 0]
        parts.append(
            SimpleNamespace(first_column=first, row_starts=starts, columns=columns, codes=kept)
        )
    names = {"blocks": parts, "codebook": CODEBOOK, "x": x, "y": np.zeros(6)}
    (loop,) = blocks("docs/kernels/csr16.md", "python")
    loop.run(names)
    np.testing.assert_allclose(names["y"], CODEBOOK[codes] @ x)


def test_panels() -> None:
    codes, x = matrix(12, 32), RNG.normal(size=(16, 32))
    bundles = [range(6), range(6, 12)]
    parts = [SimpleNamespace(first_column=first) for first in (0, 16)]

    def entries_of(r: int, b: Any) -> list[tuple[int, int]]:
        part = codes[r, b.first_column : b.first_column + 16]
        return [(int(c), int(part[c])) for c in np.flatnonzero(part)]

    def runs(bundle: range, b: Any) -> Iterator[tuple[int, list[int]]]:
        counts = {r: len(entries_of(r, b)) for r in bundle}
        for count in sorted(set(counts.values())):
            yield count, [r for r in bundle if counts[r] == count]

    rows = ((b, r) for u in bundles for b in parts for _, some in runs(u, b) for r in some)
    stream = (entry for b, r in rows for entry in entries_of(r, b))
    names = {
        "x": x, "bundles": bundles, "blocks": parts, "runs": runs, "codebook": CODEBOOK,
        "entries": lambda _, count: islice(stream, count), "sums": np.zeros((12, 16)),
    }  # fmt: skip
    (loop,) = blocks("docs/kernels/panels.md", "python")
    loop.run(names)
    np.testing.assert_allclose(names["sums"], CODEBOOK[codes] @ x.T)


def test_tiles() -> None:
    codes = matrix(32, 128)
    tiles = codes.reshape(2, 16, 2, 64)
    x_limb = RNG.integers(0, 256, (2, 3, 2, 64)).astype(np.uint8)  # limb, vector, block, column
    w_limb = RNG.integers(-128, 128, (2, 5)).astype(np.int8)
    w_limb[:, 0] = 0
    names = {
        "np": np, "groups": 2, "blocks": 2, "kept": [(p, q) for p in (0, 1) for q in (0, 1)],
        "mask": lambda g, b: tiles[g, :, b] > 0,
        "codes": lambda g, b: tiles[g, :, b][tiles[g, :, b] > 0],
        "x_limb": x_limb, "w_limb": w_limb, "sums": np.zeros((3, 2, 3, 16), np.int32),
    }  # fmt: skip
    (loop,) = blocks("docs/kernels/tiles.md", "python")
    loop.run(names)
    places = 256 ** np.arange(3)
    y = np.tensordot(places, names["sums"], 1).transpose(1, 0, 2).reshape(3, 32)
    x = np.tensordot(places[:2], x_limb.astype(np.int64), 1).reshape(3, 128)
    w = np.tensordot(places[:2], w_limb.astype(np.int64), 1)[codes]
    np.testing.assert_array_equal(y, x @ w.T)


def test_sell() -> None:
    cols, grain, unit, low = 96, 32, 0.01, -1.0
    codes = matrix(16, cols)
    codes[:, 4::8] = 0  # at most 28 entries in a window of 32 columns
    w_limb = RNG.integers(-128, 128, (2, 5))
    w_limb[:, 0] = 0
    x_limb = RNG.integers(0, 256, (2, cols))
    places = 256.0 ** np.arange(2)
    w, x = (places @ w_limb)[codes], low + unit * (places @ x_limb)
    advance, steps = [], []
    for window in range(0, cols, grain):
        for step in range(7):
            column, code = np.zeros((2, 16, 4), np.intp)
            for r in range(16):
                there = np.flatnonzero(codes[r, window : window + grain])[4 * step : 4 * step + 4]
                column[r, : len(there)] = there
                code[r, : len(there)] = codes[r, window + there]
            advance.append(int(window > 0 and step == 0))
            steps.append((column, code))
    bias, order = RNG.normal(size=16), RNG.permutation(16)[None]
    names = {
        "np": np, "slices": 1, "places": 3, "steps": lambda _: range(len(steps)), "grain": grain,
        "advance": advance, "entries": steps, "kept": [(p, q) for p in (0, 1) for q in (0, 1)],
        "x_limb": x_limb, "w_limb": w_limb, "unit": unit, "low": low, "bias": bias,
        "row_sums": w.sum(1)[None], "order": order, "y": np.zeros(16),
    }  # fmt: skip
    (loop,) = blocks("docs/kernels/sell.md", "python")
    loop.run(names)
    np.testing.assert_allclose(names["y"][order[0]], w @ x + bias[order[0]], rtol=1e-9)


@pytest.mark.parametrize("superblocks", [1, 3])
def test_prefix_code(superblocks: int) -> None:
    # Roots 00 and 01 are words of A and B; 10 goes on with a bit: C and D; 11 is the tail.
    symbols = RNG.choice(list("ABCDEF"), (superblocks, 512))
    roots = np.select([symbols == "A", symbols == "B", np.isin(symbols, ["C", "D"])], [0, 1, 2], 3)
    bits = [int(s == "D") for s in symbols.flat if s in "CD"]
    later = [s for s in symbols.flat if s in "EF"]

    def take(stream: list[Any], count: int) -> list[Any]:
        taken, stream[:] = stream[:count], stream[count:]
        return taken

    names: dict[str, Any] = {
        "stage": [(root >> 1, root & 1) for root in roots], "P": 2, "last_root": 3, "out": [],
        "suffixes": [SimpleNamespace(first_root=2, bits=bits)], "take": take,
        "table": np.array(list("AABBCD??")), "next_stage": later,
    }  # fmt: skip
    (loop,) = blocks("docs/kernels/prefix_code.md", "python")
    loop.run(names)
    np.testing.assert_array_equal(names["out"], symbols)
    assert bits == later == []
