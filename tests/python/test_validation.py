"""What every method asks of its input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tersor._validation import check_finite


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_numbers_that_are_not_finite_are_named(make) -> None:
    for good in ([], [[0.0, -3e38]]):
        check_finite(make(good), "fc")
    for bad in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match="fc: the score holds NaN or infinite values"):
            check_finite(make([[1.0, bad, 2.0]]), "fc", "score")
