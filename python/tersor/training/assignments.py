"""Training which codebook entry each weight takes.

Source: Bengio et al. (arXiv 1308.3432), the straight-through estimator.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from tersor.pruning.optimizer_hooks import AroundSteps
from tersor.quantizers.base import Quantized


class TrainedAssignments(AroundSteps):
    """Weights that are trained on while the network computes with their codebook entries.

    The gradient at the codebook entry moves the free weight that stands behind it, straight through
    the rounding, and a weight takes another entry where it comes nearer to that. Attach it to the
    optimizer of the weights; where no hooks can be, call :meth:`restore` after ``backward``, before
    the optimizer's step, and :meth:`write` after it. Zeros stay zero, and the entries as they are.

    Args:
        parameters: by name; free weights, pruned already.
        quantized: codes and codebook by name, as a function of :mod:`tersor.quantizers` gives them.

    Raises:
        ValueError: a name is missing, or codes have another shape than their parameter.

    Attributes:
        quantized: as given.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], quantized: Mapping[str, Quantized]
    ) -> None:
        self.parameters, self.quantized = dict(parameters), dict(quantized)
        if missing := sorted(parameters.keys() - quantized.keys()):
            raise ValueError(f"no codes are given for {missing}")
        for name, p in self.parameters.items():
            if quantized[name].codes.shape != tuple(p.shape):
                raise ValueError(
                    f"{name}: the codes have shape {quantized[name].codes.shape}, "
                    f"expected {tuple(p.shape)}"
                )
        self._free = {
            name: p.detach().clone(memory_format=torch.contiguous_format)
            for name, p in self.parameters.items()
        }
        self._kept: dict[str, torch.Tensor] = {}
        self._values: dict[str, torch.Tensor] = {}
        self._bounds: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            given = quantized[name]
            # A layer that is pruned altogether has none, but its zeros need one to be masked.
            values = torch.from_numpy(given.codebook()[-max(1, len(given.values)) :])
            values = values.to(parameter.device)
            self._kept[name] = torch.from_numpy(given.codes != 0).to(parameter.device)
            self._values[name] = values
            self._bounds[name] = (values[1:] + values[:-1]) / 2
        self.write()

    def _nearest(self, name: str) -> torch.Tensor:
        """The index of the nearest codebook entry, from 0, for each free weight."""
        return torch.bucketize(self._free[name], self._bounds[name])

    @torch.no_grad()
    def restore(self) -> None:
        """Sets every weight to the free one, which the optimizer moves."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self._free[name])

    @torch.no_grad()
    def write(self) -> None:
        """Keeps the free weights as they are now, and sets every weight to its codebook entry."""
        for name, parameter in self.parameters.items():
            self._free[name].copy_(parameter)
            parameter.copy_(self._values[name][self._nearest(name)] * self._kept[name])

    before_step = restore
    after_step = write

    def shared(self) -> dict[str, Quantized]:
        """Codes and codebooks as they are now, by name, for :class:`SharedWeights`."""
        made: dict[str, Quantized] = {}
        for name, kept in self._kept.items():
            nearest = self._nearest(name)
            used, code = nearest[kept].unique(return_inverse=True)  # some may have lost all
            codes = torch.zeros_like(nearest, dtype=torch.uint8)
            codes[kept] = (code + 1).to(torch.uint8)
            made[name] = Quantized(codes.cpu().numpy(), self._values[name][used].cpu().numpy())
        return made

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The free weights by name, for a checkpoint; codebooks are the constructor's."""
        return {name: free.clone() for name, free in self._free.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes the free weights of a checkpoint and sets every weight to its codebook entry.

        Raises:
            ValueError: a name is missing or a shape differs; nothing was replaced.
        """
        if missing := sorted(self.parameters.keys() - state.keys()):
            raise ValueError(f"missing free weights in state_dict: {missing}")
        for name, parameter in self.parameters.items():
            if state[name].shape != parameter.shape:
                raise ValueError(
                    f"{name}: the free weights have shape {tuple(state[name].shape)}, "
                    f"expected {tuple(parameter.shape)}"
                )
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])
        self.write()
