"""Training which codebook entry each weight takes.

Source: Bengio et al. (arXiv 1308.3432), the straight-through estimator.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from tersor.quantizers.base import Quantized


class TrainedAssignments:
    """Weights that go on training while the network computes with their shared values.

    The gradient at the shared value moves the free weight that stands behind it, straight through
    the choice of the value, and a weight takes another value where it comes nearer to that. Call
    :meth:`restore` after ``backward``, before the optimizer's step, and :meth:`write` after it.
    Zeros stay zero, and values stay as they are.

    Args:
        parameters: by name; free weights, pruned already.
        shared: by name, what one of :mod:`tersor.quantizers.base` chose for them.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], shared: Mapping[str, Quantized]
    ) -> None:
        self.parameters = dict(parameters)
        self._free = {
            name: p.detach().clone(memory_format=torch.contiguous_format)
            for name, p in self.parameters.items()
        }
        self._kept: dict[str, torch.Tensor] = {}
        self._values: dict[str, torch.Tensor] = {}
        self._bounds: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            # A layer that is pruned altogether has none, but its zeros need one to be masked.
            values = torch.from_numpy(shared[name].codebook()[-max(1, len(shared[name].values)) :])
            values = values.to(parameter.device)
            self._kept[name] = torch.from_numpy(shared[name].codes != 0).to(parameter.device)
            self._values[name] = values
            self._bounds[name] = (values[1:] + values[:-1]) / 2
        self.write()

    def _numbers(self, name: str) -> torch.Tensor:
        """The number of the nearest value, from 0, for each free weight."""
        return torch.bucketize(self._free[name], self._bounds[name])

    @torch.no_grad()
    def restore(self) -> None:
        """Sets every weight to the free one, which the optimizer moves."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self._free[name])

    @torch.no_grad()
    def write(self) -> None:
        """Keeps the free weights as they are now, and sets every weight to its shared value."""
        for name, parameter in self.parameters.items():
            self._free[name].copy_(parameter)
            parameter.copy_(self._values[name][self._numbers(name)] * self._kept[name])

    def shared(self) -> dict[str, Quantized]:
        """Values and codes as they are now, by name, for :class:`SharedWeights`."""
        made: dict[str, Quantized] = {}
        for name, kept in self._kept.items():
            numbers = self._numbers(name)
            taken, code = numbers[kept].unique(return_inverse=True)  # some may have lost all
            codes = torch.zeros_like(numbers, dtype=torch.uint8)
            codes[kept] = (code + 1).to(torch.uint8)
            made[name] = Quantized(codes.cpu().numpy(), self._values[name][taken].cpu().numpy())
        return made
