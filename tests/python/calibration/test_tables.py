"""Tables whose rows are looked up."""

from __future__ import annotations

import pytest
import torch

from tersor.calibration.tables import quantize_table, table_curve


@pytest.mark.parametrize("penalty", [1e-3, 1e-2, 0.1])
def test_errors_and_rates_are_those_of_the_penalty(penalty: float) -> None:
    weight = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    made = quantize_table(weight, penalty, 255)
    values, counts = made.values.unique(return_counts=True)
    assert len(values) <= 256
    shares = counts / counts.sum()
    entropy = float(-(shares * shares.log2()).sum())
    assert table_curve(weight, 255).bits(penalty) == pytest.approx(entropy, rel=0.05)
    # One bit more saves the penalty; less where most weights are zero.
    error = float((made.dense()[0] - weight).square().mean())
    more = quantize_table(weight, penalty / 4, 255)
    saved = error - float((more.dense()[0] - weight).square().mean())
    bits = table_curve(weight, 255).bits(penalty / 4) - entropy
    assert 0.25 * penalty < saved / bits < penalty


def test_few_entries_are_enough_where_few_are_allowed() -> None:
    weight = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    assert 2 <= len(quantize_table(weight, 1e-6, 5).values.unique()) <= 6
    assert not quantize_table(torch.zeros(3, 4), 0.1, 255).dense().any()
