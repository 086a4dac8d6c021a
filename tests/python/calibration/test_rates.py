"""Codes chosen by error and rate, with a step for each row and column."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tersor.calibration import rates, sweeps


def uncorrelated(certainty: torch.Tensor) -> sweeps.Piece:
    """Inputs that do not correlate: nothing is compensated."""
    return sweeps.Piece(slice(0, len(certainty)), torch.diag(certainty.sqrt())[None])


def test_a_bit_more_saves_the_penalty_at_the_best_step() -> None:
    rows = torch.tensor([[0.5, 8.0]])
    steps = rates.steps_of([uncorrelated(torch.tensor([1.0, 4.0, 16.0]))], rows, penalty=0.3)
    step = steps.base * steps.of()[0].double()
    cost = rows[0][:, None].double() / torch.tensor([1.0, 4.0, 16.0]).double()
    slope = 2 * math.log(2.0) * cost * step**2 / 12  # of cost * step^2 / 12 * 4 ** -bits
    # Factors are on a grid of four to an octave.
    assert (slope / 0.3).log2().abs().max() <= 2 * (1 / 8 + 1 / 8)
    assert (slope / 0.3).log2().mean() == pytest.approx(0.0, abs=0.1)


def test_taps_have_one_factor_and_groups_have_none_for_columns() -> None:
    certainty = torch.tensor([1.0, 4.0, 16.0, 64.0])
    both = [sweeps.Piece(slice(0, 4), torch.diag(certainty.sqrt()).expand(2, 4, 4))]
    both[0].root = both[0].root * torch.tensor([1.0, 8.0])[:, None, None]
    taps = rates.steps_of([uncorrelated(certainty)], torch.ones(1, 3), 1.0, taps=2)
    assert taps.columns[0] == taps.columns[1] != taps.columns[2] == taps.columns[3]
    groups = rates.steps_of(both, torch.ones(2, 3), 1.0, taps=None)
    assert torch.equal(groups.columns, torch.ones(4))
    assert torch.allclose(groups.rows[1] / groups.rows[0], torch.tensor(8.0))


def test_each_weight_goes_where_error_and_rate_are_least() -> None:
    """Where nothing is compensated, all multiples can be tried."""
    rng = np.random.default_rng(0)
    weight = rng.laplace(0, 1, (40, 30)).astype(np.float32)
    certainty = torch.from_numpy(rng.uniform(0.5, 2.0, 30).astype(np.float32))
    importance = torch.from_numpy(rng.uniform(0.5, 2.0, (1, 40)).astype(np.float32))
    pieces, penalty = [uncorrelated(certainty)], 0.05
    kept = weight > -2.0
    steps = rates.steps_of(pieces, importance, penalty)
    got = rates.rate_sweeps(
        torch.from_numpy(weight[None]),
        pieces,
        torch.from_numpy(kept[None]),
        penalty,
        40,
        steps,
        importance,
    )
    factors = steps.of()[0].numpy()
    base = float(got.values.unique().diff().min())
    cost = (importance[0][:, None] / certainty).numpy()
    tried = np.arange(-22, 23)
    codes = np.rint(weight / (base * factors)) * kept
    for _ in range(2):
        counts = np.maximum(0.5, [(codes == t).sum() for t in tried])
        price = -penalty * np.log2(counts / codes.size)
        error = weight[..., None] - tried * (base * factors)[..., None]
        codes = tried[(cost[..., None] * error**2 + price).argmin(-1)] * kept
    assert len(np.unique(codes)) > 4
    assert 0.2 < np.mean(codes == 0) < 0.9
    np.testing.assert_allclose(got.dense()[0], codes * base * factors, rtol=1e-4, atol=1e-6)


def test_few_values_are_enough_where_few_are_allowed() -> None:
    weight = torch.randn(1, 30, 20, generator=torch.Generator().manual_seed(0))
    pieces, ones = [uncorrelated(torch.ones(20))], torch.ones(1, 30)
    steps = rates.steps_of(pieces, ones, 1e-3)
    for values in (1, 2, 5):
        kept = weight.abs() > 0.1
        got = rates.rate_sweeps(weight, pieces, kept, 1e-3, values, steps, ones)
        distinct = set(got.values.unique().tolist()) - {0.0}
        assert 1 <= len(distinct) <= values
        assert not got.dense()[weight.abs() <= 0.1].any()


def test_the_curve_is_the_entropy_of_the_codes() -> None:
    """Without compensation, what quantizing gives is what was expected."""
    weight = torch.randn(1, 200, 150, generator=torch.Generator().manual_seed(0))
    pieces, ones = [uncorrelated(torch.ones(150))], torch.ones(1, 200)
    curve = rates.steps_of(pieces, ones, 1.0).curve(weight, 255)
    for penalty in (1e-3, 1e-2, 0.1):
        steps = rates.steps_of(pieces, ones, penalty)
        kept = torch.ones_like(weight, dtype=torch.bool)
        got = rates.rate_sweeps(weight, pieces, kept, penalty, 255, steps, ones)
        _, counts = got.values.unique(return_counts=True)
        shares = counts / counts.sum()
        entropy = float(-(shares * shares.log2()).sum())
        assert curve.bits(penalty) == pytest.approx(entropy, rel=0.03)
        assert curve.penalty_for(entropy) == pytest.approx(penalty, rel=0.1)


def test_a_few_large_weights_do_not_widen_the_steps() -> None:
    weight = torch.randn(1, 100, 80, generator=torch.Generator().manual_seed(0))
    weight[0, 3, 5], weight[0, 7, 2] = 300.0, -450.0
    pieces, ones = [uncorrelated(torch.ones(80))], torch.ones(1, 100)
    steps = rates.steps_of(pieces, ones, 0.02)
    kept = torch.ones_like(weight, dtype=torch.bool)
    got = rates.rate_sweeps(weight, pieces, kept, 0.02, 255, steps, ones)
    assert (got.dense() - weight).abs().max() < 2.1 * steps.base
    assert len(got.values.unique()) <= 256
    few = rates.rate_sweeps(weight, pieces, kept, 0.02, 15, steps, ones)
    assert len(few.values.unique()) <= 16
