"""Error compensation of one weight, column by column."""

from __future__ import annotations

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
    root = sweeps.inverse_root(second[None])[0]
    assert torch.equal(root, root.triu())
    damped = second + sweeps._DAMPING * second.diagonal().mean() * torch.eye(40)
    assert torch.allclose(root.T @ root @ damped, torch.eye(40), atol=1e-3)


def test_one_pruned_weight_is_made_up_for_exactly() -> None:
    """The later weights become those of least squares with the pruned one held at zero."""
    x, weight = inputs(500, 200).double(), torch.randn(3, 200).double()
    second = (x.T @ x / len(x)).float()
    root = sweeps.inverse_root(second[None])
    cut = 130

    def prune(column: torch.Tensor, i: int) -> torch.Tensor:
        return torch.zeros_like(column) if i == cut else column.clone()

    got = sweeps.sweep(weight.float()[None], root, prune)[0].double()
    damped = torch.linalg.inv((root[0].T @ root[0]).double())
    later = slice(cut + 1, 200)
    step = torch.linalg.solve(damped[later, later], damped[later, cut])
    assert torch.equal(got[:, :cut], weight.float()[:, :cut].double())
    expected = weight[:, later] + weight[:, cut : cut + 1] * step
    assert torch.allclose(got[:, later], expected, atol=2e-3)
