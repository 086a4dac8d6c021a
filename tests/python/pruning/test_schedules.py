"""Schedules of gradual pruning, and the settings of retraining."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from tersor.pruning.schedules import CubicSchedule, Retraining, RoundSchedule


def test_cubic_schedule_falls_from_initial_to_final() -> None:
    schedule = CubicSchedule(0.1, 100, begin=10)
    densities = [schedule.density(step) for step in range(150)]
    assert densities[0] == densities[10] == 1.0
    assert densities[100] == densities[149] == 0.1
    assert densities == sorted(densities, reverse=True)


def test_rounds_keep_equal_shares_of_what_is_left() -> None:
    schedule = RoundSchedule(0.064, rounds=3, steps=10)
    densities = [schedule.density(step) for step in (0, 9, 10, 19, 20, 29, 500)]
    assert densities == pytest.approx([0.4, 0.4, 0.16, 0.16, 0.064, 0.064, 0.064])


def test_retraining_as_in_the_paper() -> None:
    settings = Retraining(learning_rate=0.01, factor=0.01)
    assert settings.dropout_rate(0.09) == pytest.approx(0.15)
    assert settings.dropout_rate(1.0) == 0.5
    group = settings.optimizer(nn.Linear(2, 2).parameters()).param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (1e-4, 0.9, 5e-4)
    with pytest.raises(ValueError, match="density must be 0 to 1"):
        settings.dropout_rate(2.0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CubicSchedule(-0.1, 10), "final must be 0 to 1, not -0.1"),
        (lambda: CubicSchedule(float("nan"), 10), "final must be 0 to 1, not nan"),
        (lambda: CubicSchedule(0.1, 10, initial=1.1), "initial must be 0 to 1, not 1.1"),
        (lambda: CubicSchedule(0.5, 10, initial=0.4), "final is 0.5, above initial, 0.4"),
        (lambda: CubicSchedule(0.1, 10, begin=11), "begin must be 0 to end, 10, not 11"),
        (lambda: CubicSchedule(0.1, 10, begin=-1), "begin must be 0 to end, 10, not -1"),
        (lambda: RoundSchedule(0.0, 3, 10), "final must be above 0"),
        (lambda: RoundSchedule(1.1, 3, 10), "final must be 0 to 1, not 1.1"),
        (lambda: RoundSchedule(0.1, 0, 10), "rounds must be 1 or more, not 0"),
        (lambda: RoundSchedule(0.1, 3, 0), "steps must be 1 or more, not 0"),
    ],
)
def test_what_is_out_of_range_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_a_descent_of_no_steps_is_a_jump() -> None:
    schedule = CubicSchedule(0.1, 5, begin=5)
    assert [schedule.density(step) for step in (0, 4, 5, 6)] == [1.0, 1.0, 0.1, 0.1]
