"""Recipes refuse what no training could follow."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tersor.training.learning_rates import CosineRate
from tersor.training.recipe import Recipe

RECIPE = Recipe(density=0.1, prune_epochs=4, codebook_epochs=2, prune_rate=CosineRate(0.1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"density": 0.0}, "density must be above 0, 1 at most, not 0"),
        ({"initial_density": 1.5}, "initial_density must be above 0, 1 at most, not 1.5"),
        ({"density": 0.5, "initial_density": 0.4}, "density is 0.5, above initial_density, 0.4"),
        ({"prune_epochs": -1}, "prune_epochs must be 0 or more, not -1"),
        ({"codebook_epochs": -1}, "codebook_epochs must be 0 or more, not -1"),
        ({"assignment_epochs": 1}, "assignment_epochs need an assignment_rate"),
        ({"batch_size": 0}, "batch_size must be 1 or more, not 0"),
        ({"redraw": 0}, "redraw must be 1 or more, not 0"),
        ({"descent": 1.1}, "descent must be 0 to 1, not 1.1"),
        ({"teacher_weight": -0.1}, "teacher_weight must be 0 to 1, not -0.1"),
        ({"temperature": 0.0}, "temperature must be above 0, not 0"),
        ({"codebook_size": 256}, "codebook_size must be 1 to 255, not 256"),
        ({"bias_codebook_size": 0}, "bias_codebook_size must be 1 to 255, not 0"),
        ({"quantizer": "best"}, "quantizer 'best' is none of kmeans, hessian, uniform, ecsq"),
        ({"bits": 2.0}, "bits are of the quantizer 'uniform', not of None"),
        ({"quantizer": "uniform", "bits": -1.0}, "bits must be above 0, not -1"),
    ],
)
def test_what_is_out_of_range_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(RECIPE, **change)
