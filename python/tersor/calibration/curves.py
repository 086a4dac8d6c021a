"""The rate of a weight as a function of the Lagrange multiplier, without quantizing all of it.

At high rates a uniform quantizer's rate follows from the distribution of the weights over their
steps alone; a sample of them is quantized with the rate in the decision, without compensation,
which changes the distribution little.
"""

from __future__ import annotations

import math

import torch

_SAMPLE = 1 << 15  # weights
_STEPS_PER_OCTAVE = 2  # of the penalty; between them rates are interpolated
_FARTHEST = 1 << 14  # code
_OCTAVES = 100  # from the penalty of one bit, in both directions


class RateCurve:
    """Bits per weight at a penalty.

    Args:
        scaled: weights in units of what their steps are at a penalty of 1, any shape.
        values: maximum number of non-zero codebook entries.
    """

    def __init__(self, scaled: torch.Tensor, values: int = 255) -> None:
        # At places of no regularity.
        count = min(_SAMPLE, scaled.numel())
        places = torch.randint(scaled.numel(), (count,), generator=torch.Generator().manual_seed(0))
        flat = scaled.flatten()
        self.sample = (flat if count < _SAMPLE else flat[places.to(flat.device)]).cpu().clone()
        self.values = values
        self._known: dict[int, float] = {}

    def bits(self, penalty: float) -> float:
        """Entropy of the codes, in bits per weight."""
        place = _STEPS_PER_OCTAVE * math.log2(penalty)
        first = math.floor(place)
        low, high = self._at(first), self._at(first + 1)
        return low + (place - first) * (high - low)

    def penalty_for(self, bits: float) -> float:
        """The smallest penalty, about, with at most that many bits per weight."""
        if not self.sample.any():
            return 1.0
        middle = 2.0 * math.log2(float(self.sample.std().clamp(min=1e-30)))
        low, high = middle - _OCTAVES, middle + _OCTAVES
        while high - low > 0.01:
            place = (low + high) / 2
            low, high = (place, high) if self.bits(2.0**place) > bits else (low, place)
        # On a grid, so that the scale of the inputs changes no digit.
        return float(2.0 ** (math.ceil(high * 64) / 64))

    def _at(self, place: int) -> float:
        if place not in self._known:
            step = 2.0 ** (place / _STEPS_PER_OCTAVE / 2)
            self._known[place] = _rate(self.sample, step, self.values)
        return self._known[place]


def step_at(penalty: float) -> float:
    """The best step of a uniform quantizer where one bit is worth a squared error, at high rate."""
    return math.sqrt(6.0 * penalty / math.log(2.0))


def code_range(weights: torch.Tensor, step: float, values: int) -> tuple[float, int, int]:
    """The step, and the least and the largest code, for at most ``values`` codes other than 0.

    A few weights far from the others have codes far from the others. Only where that makes too many
    different ones, steps become as wide as the range of the weights asks for.

    Args:
        weights: float32, any shape.
        step: that is wanted.
        values: 1 to 255.
    """
    largest = float(weights.abs().max())
    most = math.ceil(largest / step - 1e-3) if step > 0 else math.inf
    if most <= values // 2:
        return step, -(values // 2), values - values // 2
    if most <= _FARTHEST and len((weights / step).round_().unique()) < 0.8 * values:
        return step, -int(most) - 1, int(most) + 1
    return max(step, largest / max(1, values // 2)), -(values // 2), values - values // 2


def best_codes(weights: torch.Tensor, step: float, values: int) -> tuple[torch.Tensor, float]:
    """Whole numbers of steps of the least squared error and rate.

    Args:
        weights: float32 ``[n]``.
        step: the best where one bit is worth a squared error of ln 2 / 6 of its square.
        values: at most so many numbers other than 0.

    Returns:
        The numbers, and the step, which may have to be wider.
    """
    wide, low, high = code_range(weights, step, values)
    scaled = weights / wide
    cost = 6.0 / math.log(2.0) * (wide / step) ** 2  # of a squared error of one, in bits
    nearest = scaled.round().clamp_(low, high)
    codes = nearest
    for _ in range(3):
        counts = torch.bincount((codes - low).long(), minlength=high - low + 1).float()
        length = -(counts.clamp(min=0.5) / len(codes)).log2()
        codes, least = torch.zeros_like(scaled), cost * scaled**2 + length[-low]
        tried = nearest
        for _ in range(3):
            error = cost * (scaled - tried) ** 2 + length[(tried - low).long()]
            better = error < least
            codes, least = torch.where(better, tried, codes), torch.where(better, error, least)
            tried = tried - tried.sign()
    return codes, wide


def _rate(weights: torch.Tensor, step: float, values: int) -> float:
    """Entropy of the codes of weights."""
    codes, _ = best_codes(weights, step, values)
    shares = torch.bincount((codes - codes.min()).long()).double()
    shares = shares[shares > 0] / len(codes)
    return float(-(shares * shares.log2()).sum())
