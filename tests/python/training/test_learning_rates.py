"""Learning rates over a training."""

from __future__ import annotations

import math

import pytest

from tersor.training.learning_rates import CosineRate, Position


def rates(rate: CosineRate, epochs: int = 5, steps: int = 8) -> list[float]:
    return [rate(Position(e, epochs, s, steps)) for e in range(epochs) for s in range(steps)]


def test_a_position_counts_steps_over_all_epochs() -> None:
    at = Position(epoch=2, epochs=5, step=3, steps=8)
    assert at.done == 19
    assert at.progress == pytest.approx(19 / 40)


def test_without_warmup_it_is_half_a_cosine() -> None:
    expected = [0.2 * (1 + math.cos(math.pi * i / 40)) for i in range(40)]
    assert rates(CosineRate(0.4)) == pytest.approx(expected)
    assert rates(CosineRate(0.4, overlap=True)) == pytest.approx(expected)


def test_warmup_comes_before_the_cosine() -> None:
    found = rates(CosineRate(0.4, warmup=0.25))
    assert found[:10] == pytest.approx([0.04 * i for i in range(10)])
    assert found[10] == 0.4
    assert found[10:] == pytest.approx([0.2 * (1 + math.cos(math.pi * i / 30)) for i in range(30)])


def test_or_scales_its_first_part() -> None:
    found = rates(CosineRate(0.4, warmup=0.25, overlap=True))
    whole = rates(CosineRate(0.4))
    assert found[:10] == pytest.approx([r * (i + 1) / 10 for i, r in enumerate(whole[:10])])
    assert found[10:] == pytest.approx(whole[10:])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"peak": 0.0}, "peak must be above 0, not 0"),
        ({"peak": math.nan}, "peak must be above 0, not nan"),
        ({"peak": 1.0, "warmup": 1.0}, "warmup must be 0 to 1, 1 excluded, not 1"),
        ({"peak": 1.0, "warmup": -0.1}, "warmup must be 0 to 1, 1 excluded, not -0.1"),
    ],
)
def test_what_is_out_of_range_is_refused(arguments: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CosineRate(**arguments)  # type: ignore[arg-type]
