"""Quantizers compared at one weighted error."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from tersor.quantizers import equal_error
from tersor.quantizers.base import Quantized
from tersor.quantizers.kmeans import quantize_kmeans
from tersor.quantizers.uniform import quantize_uniform

Arrays = dict[str, npt.NDArray[np.float32]]


@pytest.fixture
def problem() -> tuple[Arrays, Arrays]:
    """Two layers, a third of the weights pruned, and their importance."""
    rng = np.random.default_rng(3)
    weights, importance = {}, {}
    for name, shape in (("a", (40, 50)), ("b", (30, 20))):
        w = rng.laplace(size=shape).astype(np.float32)
        weights[name] = np.where(rng.random(shape) < 1 / 3, np.float32(0), w)
        importance[name] = rng.exponential(size=shape).astype(np.float32)
    return weights, importance


def test_every_quantizer_keeps_the_error_of_hessian_weighted_kmeans(
    problem: tuple[Arrays, Arrays],
) -> None:
    weights, importance = problem
    found = {
        m: equal_error.quantize_at_equal_error(m, weights, importance, 7)
        for m in equal_error.QUANTIZERS
    }
    errors = {m: equal_error.weighted_error(weights, importance, s) for m, s in found.items()}
    by_hand = sum(
        float((importance[n] * (found["hessian"][n].dense() - weights[n]) ** 2).sum())
        for n in weights
    )
    assert errors["hessian"] == pytest.approx(by_hand, rel=1e-4)
    assert all(0 < e <= errors["hessian"] for e in errors.values())
    bits = {m: equal_error.joint_entropy(s) for m, s in found.items()}
    assert bits["ecsq"] < bits["uniform"] < bits["hessian"] < bits["kmeans"]


def test_no_smaller_codebook_would_do(problem: tuple[Arrays, Arrays]) -> None:
    weights, importance = problem

    def error(shared: dict[str, Quantized]) -> float:
        made: float = equal_error.weighted_error(weights, importance, shared)
        return made

    def values(shared: dict[str, Quantized]) -> int:
        return len(np.unique(np.concatenate([s.values for s in shared.values()])))

    bound = error(equal_error.quantize_at_equal_error("hessian", weights, importance, 7))
    k = values(equal_error.quantize_at_equal_error("kmeans", weights, importance, 7))
    assert k > 7
    assert error(quantize_kmeans(weights, k - 1, joint=True)) > bound
    fewest = error(equal_error.quantize_at_equal_error("uniform", weights, importance, 7))
    tried = [quantize_uniform(weights, s, importance=importance, joint=True) for s in range(1, 99)]
    assert fewest == next(e for e in map(error, tried) if e <= bound)


def test_joint_entropy_counts_entries_and_not_their_numbers_in_each_layer() -> None:
    one = np.ones((2, 2), np.uint8)
    shared = {
        "a": Quantized(one, np.array([0.5], np.float32)),
        "b": Quantized(one, np.array([-1.0], np.float32)),
    }
    assert equal_error.joint_entropy(shared) == 1.0


def test_uniform_steps_within_bits_are_the_most(problem: tuple[Arrays, Arrays]) -> None:
    weights, importance = problem
    found = equal_error.quantize_uniform_within(weights, importance, 2.5)
    assert equal_error.joint_entropy(found) <= 2.5
    every = [quantize_uniform(weights, s, importance=importance, joint=True) for s in range(2, 256)]
    within = [s for s in every if equal_error.joint_entropy(s) <= 2.5]
    for name in weights:
        np.testing.assert_array_equal(found[name].codes, within[-1][name].codes)


def test_an_unknown_quantizer_is_named(problem: tuple[Arrays, Arrays]) -> None:
    with pytest.raises(ValueError, match="'best' is none of kmeans, hessian, uniform, ecsq"):
        equal_error.quantize_at_equal_error("best", *problem, 7)
