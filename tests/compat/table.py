"""Writes docs/supported.md from what the suite expects: ``python -m tests.compat.table``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from tersor.nn.registry import LayerHandler, handler_of
from tests.compat.cases import layers_of
from tests.compat.families import FAMILIES, DenseRefuses, Family
from tests.compat.layers import ROWS, Row
from tests.compat.operations import OPERATIONS, applies

PAGE = Path(__file__).resolve().parents[2] / "docs" / "supported.md"

_HEAD = """\
# Supported layers and models

This page is generated: `python -m tests.compat.table` writes it from what `tests/compat` expects of
each layer type and each family of networks, and the tests hold the package to it. A layer that
cannot run compressed stays dense; `tersor.report(model)` gives the reason, in the words of the
first table.

Files are written by `tersor.save`. `save_pretrained` of `transformers` writes blobs that its
`from_pretrained` does not read: it initializes those layers anew and lists their weights as
missing. Decompress a model before `save_pretrained`.

## Layer types

| Layer | Result | Remarks |
|---|---|---|
"""

_FAMILIES = """
## Families of networks

Tiny networks with random weights, each in float32 and bfloat16. The share of weights that are
compressed is that of these networks: the embeddings of large ones count for less.

| Family | Network | Compressed weights | Dense layers |
|---|---|--:|---|
"""

_OPERATIONS = """
"✓": it works for both dtypes, and gives what the decompressed model does. "–": it means nothing
here.

"""


def page() -> str:
    """The text of the page."""
    parts = [_HEAD, *map(_layer, ROWS), _FAMILIES, *map(_family, FAMILIES), _OPERATIONS]
    return "".join([*parts, *_cells(), *_notes()])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _layer(row: Row) -> str:
    if row.reason is None:
        return _line((row.name, "compressed", row.note))
    reason = row.reason.replace("\\", "").replace("d+", "N")
    return _line((row.name, f"left dense: {reason}", row.note))


def _family(family: Family) -> str:
    kinds = sorted({f"`{name}`" for name, why in family.dense.items() if why.startswith(name)})
    tied = sorted(f"`{name}` (tied)" for name, why in family.dense.items() if "shares" in why)
    return _line((f"`{family.name}`", family.about, _share(family), ", ".join([*kinds, *tied])))


def _handler(layer: torch.nn.Module) -> LayerHandler:
    handler = handler_of(layer)
    assert handler is not None
    return handler


def _share(family: Family) -> str:
    """How many of a family's parameters are weights that are compressed, in percent."""
    with torch.device("meta"):
        model = family.build()
    compressed = {
        getattr(layer, leaf)
        for name, layer in layers_of(model).items()
        if family.reason(name, layer) is None
        for leaf in _handler(layer).shapes(layer)
    }
    share = sum(w.numel() for w in compressed) / sum(p.numel() for p in model.parameters())
    return f"{share:.0%}"


def _remarks() -> list[str]:
    """What the numbers in the cells stand for, each once."""
    outcomes = [own for family in FAMILIES for own in family.outcomes.values()]
    return list(dict.fromkeys(outcome.why for outcome in outcomes))


def _cells() -> Iterator[str]:
    yield _line(("", *(f"`{family.name}`" for family in FAMILIES)))
    yield _line(["---"] * (len(FAMILIES) + 1)).replace(" ", "")
    for name, check in OPERATIONS.items():
        label = (check.__doc__ or "").splitlines()[0]
        yield _line((label, *(_cell(name, family) for family in FAMILIES)))


def _cell(operation: str, family: Family) -> str:
    if not applies(operation, family):
        return "–"
    outcome = family.outcomes.get(operation)
    if outcome is None:
        return "✓"
    mark = "refused by torch" if isinstance(outcome, DenseRefuses) else "✓"
    return f"{mark} ({_remarks().index(outcome.why) + 1})"


def _notes() -> Iterator[str]:
    yield "\n"
    for number, remark in enumerate(_remarks(), 1):
        yield f"{number}. {remark[0].upper()}{remark[1:]}.\n"


if __name__ == "__main__":
    PAGE.write_text(page())
