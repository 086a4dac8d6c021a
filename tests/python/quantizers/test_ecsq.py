"""Entropy-constrained quantization against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from tersor.quantizers import ecsq
from tersor.quantizers.base import code_entropy
from tersor.quantizers.ecsq import quantize_ecsq
from tersor.quantizers.kmeans import quantize_kmeans


def numbers(n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.laplace(0, 0.1, n).astype(np.float32)
    return x, (rng.gamma(0.3, 1.0, n) * (rng.random(n) < 0.8)).astype(np.float32)


def reference(x, h, values, penalty, iterations=50):
    """Algorithm 1 of Choi et al., a table of all costs in each step."""
    low, high = x.min(), x.max()
    centres = low + (np.arange(values) + 0.5) * (high - low) / values
    price = np.zeros(values)
    for _ in range(iterations):
        codes = (h[:, None] * (x[:, None] - centres) ** 2 + price).argmin(1)
        count, weight, first = (np.bincount(codes, w, len(centres)) for w in (None, h, h * x))
        taken = count > 0
        centres, shares = first[taken] / weight[taken], count[taken] / len(x)
        price = -penalty * np.log2(shares)
    error = (h * (x - centres[(np.cumsum(taken) - 1)[codes]]) ** 2).mean()
    return error + penalty * ecsq.entropy_of(count.astype(np.int64))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("penalty", [0.0, 1e-5, 1e-4, 1e-3])
def test_the_cost_matches_the_reference_algorithm(weighted: bool, penalty: float) -> None:
    x, h = numbers()
    problem = ecsq.Problem(x, h if weighted else None)
    found = problem.solve(31, penalty)
    factor = h + problem.floor if weighted else np.ones_like(x)
    values, codes = found.values, problem.codes(found)
    assert (np.bincount(codes) == found.counts).all()
    error = float((factor * (x - values[codes]) ** 2).mean())
    assert found.distortion == pytest.approx(error, rel=1e-3, abs=1e-9)
    expected = reference(x.astype(np.float64), factor, 31, penalty)
    assert error + penalty * found.entropy <= expected * 1.03


def test_every_weight_is_assigned_to_its_cheapest_entry() -> None:
    x, h = numbers()
    problem = ecsq.Problem(x, h)
    values, price = np.array([-0.3, -0.1, 0.0, 0.02, 0.4]), np.array([3.0, 1.0, 9.0, 0.5, 2.0]) / 99
    first, end = problem._runs(values, price)
    cost = problem.importance[problem.group][:, None] * (problem.position[:, None] - values) ** 2
    best = (cost + price).argmin(1)
    got = np.full(len(best), -1)
    for run in zip(first.ravel(), end.ravel(), np.tile(np.arange(5), len(first)), strict=True):
        got[run[0] : run[1]] = run[2]
    assert (got == best).all()
    assert 2 not in best  # too dear for anything


def test_weights_of_low_importance_do_not_move_across_the_range() -> None:
    x, h = numbers()
    shared = quantize_ecsq({"w": x}, 31, bits=2.0, importance={"w": h})["w"]
    error = (shared.dense() - x)[h == 0]
    assert (error**2).mean() < 0.5 * x.var()
    assert np.abs(error).max() < np.abs(x).max()


@pytest.mark.parametrize("bits", [0.2, 0.5, 0.9, 1.3, 3.0])
def test_any_target_entropy_is_met(bits: float) -> None:
    x, _ = numbers()
    x = x[np.abs(x) > 0.1]  # pruned: two heaps, which the iteration merges at once
    got = quantize_ecsq({"w": x}, 31, bits=bits)["w"]
    assert 0.97 * bits - 0.01 <= got.entropy() <= bits
    assert ((got.dense() - x) ** 2).sum() < ((x.mean() - x) ** 2).sum()


def test_with_a_zero_entry_a_penalty_prunes() -> None:
    x, h = numbers()
    x[:500] = 0
    densities = []
    for penalty in (1e-6, 1e-4, 1e-3):
        got = quantize_ecsq({"w": x}, 31, penalty=penalty, prune=True, importance={"w": h})["w"]
        assert not got.codes[:500].any()
        assert 0.0 not in got.values
        densities.append((got.codes != 0).mean())
        # The smaller a number, the sooner it goes, among those that matter alike.
        alike = (h > 0.1) & (h < 0.11)
        kept = np.abs(x[alike & (got.codes != 0)]).min(initial=1.0)
        gone = np.abs(x[alike & (got.codes == 0)]).max(initial=0.0)
        assert gone < kept * 1.15
    assert densities == sorted(densities, reverse=True)
    assert densities[-1] < 0.5 * densities[0]


def test_a_zero_entry_beats_pruning_first() -> None:
    """At the same entropy of all codes, zeros counted, the squared error is less."""
    x, _ = numbers(20000)
    first = np.where(np.abs(x) > 0.1, x, 0).astype(np.float32)
    plain = quantize_kmeans({"w": first}, 15)["w"]
    bits = ecsq.entropy_of(np.bincount(plain.codes))
    joint = quantize_ecsq({"w": x}, 31, bits=bits, prune=True)["w"]
    assert ecsq.entropy_of(np.bincount(joint.codes)) <= bits
    assert ((joint.dense() - x) ** 2).sum() < 0.8 * ((plain.dense() - x) ** 2).sum()
    assert code_entropy(joint.codes) < 8


@pytest.mark.parametrize("penalty", [1e-4, 3e-4, 6e-4])
def test_zero_keeps_its_members_with_skewed_weights(penalty: float) -> None:
    x = np.random.default_rng(0).normal(-0.02, 0.05, 8000).astype(np.float32)
    got = quantize_ecsq({"w": x}, 48, penalty=penalty, prune=True)["w"]
    assert (got.codes == 0).mean() > 0.15
