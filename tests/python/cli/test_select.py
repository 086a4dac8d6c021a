"""Which tensors of a model file are taken."""

from __future__ import annotations

import pytest

from tersor.cli.select import choose


@pytest.mark.parametrize(
    ("name", "shape", "taken"),
    [
        ("fc.weight", (3, 4), True),
        ("weight", (3, 4), True),
        ("conv.weight", (3, 4, 5, 5), True),
        ("member.weight", (3, 4), True),
        ("abnormality.weight", (3, 4), True),
        ("fc.bias", (3,), False),
        ("norm.weight", (3,), False),
        ("fc.running", (3, 4), False),
        ("embedding.weight", (3, 4), False),
        ("tok_embeddings.weight", (3, 4), False),
        ("model.embed_tokens.weight", (3, 4), False),
        ("transformer.wte.weight", (3, 4), False),
        ("layer_norm.weight", (3, 4), False),
        ("fc.weight", (0, 4), False),
    ],
)
def test_choice_by_name_and_shape(name: str, shape: tuple[int, ...], taken: bool) -> None:
    assert choose(name, "F32", shape).taken is taken


def test_choice_by_options() -> None:
    assert not choose("fc.weight", "I64", (3, 4)).taken
    assert not choose("fc.weight", "F32", (3, 4), min_size=13).taken
    assert choose("fc.weight", "F32", (3, 4), min_size=12).taken
    assert choose("wte.weight", "F32", (3, 4), only=["wte*"]).taken
    assert not choose("fc.weight", "F32", (3, 4), only=["wte*"]).taken
    assert not choose("fc.weight", "F32", (3, 4), only=["fc*"], skip=["*.weight"]).taken
