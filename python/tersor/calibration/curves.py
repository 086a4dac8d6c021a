"""The rate of a weight as a function of the Lagrange multiplier, without quantizing all of it.

At high rates a uniform quantizer's rate follows from the distribution of the weights over their
steps alone; a sample of them is quantized with the rate in the decision, without compensation,
which changes the distribution little.
"""

from __future__ import annotations

import math

import torch

from tersor.calibration.rates import Steps

_SAMPLE = 1 << 15  # weights
_STEPS_PER_OCTAVE = 2  # of the penalty; between them rates are interpolated
_OCTAVES = 100  # from the penalty of one bit, in both directions


class RateCurve:
    """Bits per weight at a penalty.

    Args:
        weight: float32, any shape.
        steps: of the same shape or one that broadcasts: the best steps at a penalty of 1.
        values: maximum number of non-zero codebook entries.
    """

    def __init__(self, weight: torch.Tensor, steps: torch.Tensor, values: int = 255) -> None:
        stride = max(1, weight.numel() // _SAMPLE) | 1
        self.sample = (weight / steps).flatten()[::stride].cpu().clone()
        self.values = values
        self._known: dict[int, float] = {}

    @classmethod
    def of(cls, weight: torch.Tensor, steps: Steps, values: int) -> RateCurve:
        """Of a weight ``[groups, rows, inputs]`` and the best steps at a penalty of 1."""
        return cls(weight, steps.base * steps.of(), values)

    def bits(self, penalty: float) -> float:
        """Entropy of the codes, in bits per weight."""
        place = _STEPS_PER_OCTAVE * math.log2(penalty)
        first = math.floor(place)
        low, high = self._at(first), self._at(first + 1)
        return low + (place - first) * (high - low)

    def penalty_for(self, bits: float) -> float:
        """The smallest penalty, about, with at most so many bits per weight."""
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
            self._known[place] = _rate(self.sample / step, self.values)
        return self._known[place]


def step_at(penalty: float) -> float:
    """The best step of a uniform quantizer where one bit is worth a squared error, at high rate."""
    return math.sqrt(6.0 * penalty / math.log(2.0))


def best_codes(scaled: torch.Tensor, values: int) -> tuple[torch.Tensor, float]:
    """Whole numbers of the least squared error and rate, for weights in units of their steps.

    Args:
        scaled: float32 ``[n]``.
        values: at most so many other than 0.

    Returns:
        The numbers, and how many steps one stands for: more than 1 where the range of the weights
        asks for that.
    """
    low, high = -(values // 2), values - values // 2
    wide = max(1.0, float(scaled.abs().max()) / max(1, values // 2))
    scaled = scaled / wide
    cost = 6.0 / math.log(2.0) * wide**2  # of a squared error of one, in bits
    nearest = scaled.round().clamp_(low, high)
    codes = nearest
    for _ in range(3):
        counts = torch.bincount((codes - low).long(), minlength=values + 1).float()
        length = -(counts.clamp(min=0.5) / len(codes)).log2()
        codes, least = torch.zeros_like(scaled), cost * scaled**2 + length[-low]
        tried = nearest
        for _ in range(3):
            error = cost * (scaled - tried) ** 2 + length[(tried - low).long()]
            better = error < least
            codes, least = torch.where(better, tried, codes), torch.where(better, error, least)
            tried = tried - tried.sign()
    return codes, wide


def _rate(scaled: torch.Tensor, values: int) -> float:
    """Entropy of the codes of weights in units of their steps."""
    codes, _ = best_codes(scaled, values)
    shares = torch.bincount((codes - codes.min()).long()).double()
    shares = shares[shares > 0] / len(codes)
    return float(-(shares * shares.log2()).sum())
