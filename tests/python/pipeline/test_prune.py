"""One density for all layers becomes a density for each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import WIDTH, two_linears

import tersor
from tersor import Config, LayerConfig


def nonzeros(model: Any) -> list[int]:
    return [model[i].info.nonzeros for i in (0, 2)]


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_share_is_that_of_all_weights(density: float, dtype: torch.dtype) -> None:
    model: Any = two_linears().to(dtype)
    with torch.no_grad():
        model[2].weight.mul_(2)
    # Integers may round a weight that is kept to zero.
    tersor.compress_(model, Config(linear=LayerConfig(method="kmeans"), density=density))
    kept = nonzeros(model)
    assert sum(kept) == round(density * 2 * WIDTH * WIDTH)
    assert density in (0.0, 1.0) or kept[1] > kept[0]


def test_a_shared_weight_counts_once() -> None:
    model = tersor.compress_(two_linears(tied=True), Config(density=0.25))
    assert nonzeros(model) == [round(0.25 * WIDTH * WIDTH)] * 2


@pytest.mark.parametrize("own", [LayerConfig(density=0.9), LayerConfig(threshold=0.1)])
def test_layers_with_a_number_of_their_own_keep_it(own: LayerConfig) -> None:
    alone = tersor.compress_(two_linears(), Config(overrides={"0": own}))
    model = tersor.compress_(two_linears(), Config(density=0.25, overrides={"0": own}))
    assert nonzeros(model) == [nonzeros(alone)[0], round(0.25 * WIDTH * WIDTH)]
    both = tersor.compress_(two_linears(), Config(density=0.25, overrides={"*": own}))
    assert nonzeros(both)[0] == nonzeros(alone)[0]
