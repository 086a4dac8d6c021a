"""Error compensation of one weight, column by column."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tersor.calibration import sweeps


def inputs(samples: int, size: int, seed: int = 0) -> torch.Tensor:
    """That correlate, as activations do; the seed makes others of the same distribution."""
    mixing = torch.randn(size // 4, size, generator=torch.Generator().manual_seed(9))
    g = torch.Generator().manual_seed(seed)
    mixed = torch.randn(samples, size // 4, generator=g) @ mixing
    return mixed + 0.5 * torch.randn(samples, size, generator=g) + 1.0


def test_the_root_is_that_of_the_damped_inverse() -> None:
    x = inputs(300, 40)
    second = x.T @ x / len(x)
    root = sweeps.inverse_root(second)
    assert torch.equal(root, root.triu())
    damped = second + sweeps._DAMPING * second.diagonal().mean() * torch.eye(40)
    assert torch.allclose(root.T @ root @ damped, torch.eye(40), atol=1e-3)


def test_one_pruned_weight_is_made_up_for_exactly() -> None:
    """The later weights become those of least squares with the pruned one held at zero."""
    x, weight = inputs(500, 200).double(), torch.randn(3, 200).double()
    second = (x.T @ x / len(x)).float()
    root = sweeps.inverse_root(second)
    cut = 130

    def prune(column: torch.Tensor, i: int) -> torch.Tensor:
        return torch.zeros_like(column) if i == cut else column.clone()

    got = sweeps.sweep(weight.float(), root, prune).double()
    damped = torch.linalg.inv((root.T @ root).double())
    later = slice(cut + 1, 200)
    step = torch.linalg.solve(damped[later, later], damped[later, cut])
    assert torch.equal(got[:, :cut], weight.float()[:, :cut].double())
    expected = weight[:, later] + weight[:, cut : cut + 1] * step
    assert torch.allclose(got[:, later], expected, atol=2e-3)


def test_a_bit_more_saves_the_penalty_at_the_width_of_a_step() -> None:
    step = sweeps.step_of(penalty=0.3, importance=7.0)
    error = 7.0 * step**2 / 12
    slope = 2 * np.log(2.0) * error  # of error * 4 ** -bits
    assert slope == pytest.approx(0.3)


def test_each_weight_goes_where_error_and_price_are_least() -> None:
    """Where inputs do not correlate nothing is compensated, and all multiples can be tried."""
    rng = np.random.default_rng(0)
    weight = rng.laplace(0, 1, (40, 30)).astype(np.float32)
    spread = rng.uniform(0.5, 2.0, 30).astype(np.float32)
    root = torch.diag(torch.from_numpy(spread))
    piece = sweeps.Piece(slice(0, 40), slice(0, 30), root)
    kept, penalty = weight > -2.0, 0.05
    got = sweeps.rate_sweeps(
        torch.from_numpy(weight), [piece], torch.from_numpy(kept), penalty, values=40
    )
    importance = np.broadcast_to(1 / spread**2, weight.shape)
    step = sweeps.step_of(penalty, float(importance[kept].mean()))
    tried = np.arange(-20, 21)
    codes = np.rint(weight / step) * kept
    for _ in range(2):
        counts = np.maximum(0.5, [(codes == t).sum() for t in tried])
        price = -penalty * np.log2(counts / codes.size)
        error = importance[..., None] * (weight[..., None] - tried * step) ** 2
        codes = tried[(error + price).argmin(-1)] * kept
    assert len(np.unique(codes)) > 4
    assert 0.2 < np.mean(codes == 0) < 0.9
    np.testing.assert_allclose(got, codes * step, rtol=1e-5)


def test_few_values_are_enough_where_few_are_allowed() -> None:
    weight = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    piece = sweeps.Piece(slice(0, 30), slice(0, 20), torch.eye(20))
    for values in (1, 2, 5):
        got = sweeps.rate_sweeps(weight, [piece], weight.abs() > 0.1, 1e-3, values)
        distinct = set(got.unique().tolist()) - {0.0}
        assert 1 <= len(distinct) <= values
        assert not got[weight.abs() <= 0.1].any()
