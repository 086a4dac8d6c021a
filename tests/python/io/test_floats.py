"""Floats of every width, beside what torch makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersor.io.floats import FLOAT_READERS, to_stored

torch = pytest.importorskip("torch")

_TYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@pytest.mark.parametrize("dtype", _TYPES)
@given(numbers=st.lists(st.floats(-60000, 60000, width=32), max_size=9))
def test_numbers_are_rounded_as_torch_rounds(dtype: str, numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    want = torch.tensor(numbers, dtype=torch.float32).to(_TYPES[dtype])
    raw = to_stored(values, dtype, "w")
    assert raw.tobytes() == want.view(torch.uint8).numpy().tobytes()
    assert np.array_equal(FLOAT_READERS[dtype](raw), want.float().numpy())


@pytest.mark.parametrize("dtype", _TYPES)
def test_what_is_not_finite_stays_so(dtype: str) -> None:
    values = np.array([np.inf, -np.inf, np.nan], np.float32)
    back = FLOAT_READERS[dtype](to_stored(values, dtype, "w"))
    assert np.array_equal(back, values, equal_nan=True)


@pytest.mark.parametrize(("dtype", "number"), [("F16", 70000.0), ("BF16", 3.4e38)])
def test_numbers_that_are_too_large_are_named(dtype: str, number: float) -> None:
    with pytest.raises(ValueError, match=rf"^fc\.weight: .*too large for {dtype}"):
        to_stored(np.array([1.0, number], np.float32), dtype, "fc.weight")


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="F8_E4M3"):
        to_stored(np.ones(1, np.float32), "F8_E4M3", "w")
