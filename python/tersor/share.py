"""Trained weight sharing: which value each weight takes, and a codebook for each layer.

:class:`SharedWeights` trains the values, with gradients summed per shared value; before that
:class:`MovingCodes` trains which of them each weight takes.

Sources: Han et al., Deep Compression (arXiv 1510.00149), section 3; Bengio et al. (arXiv
1308.3432), the straight-through estimator.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from tersor.checks import check_finite
from tersor.methods import Sharing, share_kmeans


class SharedWeights:
    """The weights of some parameters, held as codes into trainable codebooks.

    After each ``backward``, :meth:`gather_gradients` sums the gradients of each value's members
    into the codebook's gradient; after the optimizer's step, :meth:`write` sets every weight to
    its value. Zeros stay zero.

    Args:
        parameters: by name; pruned already.
        values: shared values beside zero, 1 to 255, for all or by name; or by name what one of
            :mod:`tersor.methods` chose.

    Raises:
        ValueError: a weight holds NaN or infinity, or a name has no number of values.

    Attributes:
        codes: by name, int64 of the parameter's shape; 0 = pruned.
        codebooks: by name, trainable float32 ``[k + 1]``; entry 0 stays zero.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], values: int | Mapping[str, int | Sharing]
    ) -> None:
        self.parameters = dict(parameters)
        if not isinstance(values, int) and (lacking := sorted(parameters.keys() - values.keys())):
            raise ValueError(f"no number of shared values is given for {lacking}")
        self.codes: dict[str, torch.Tensor] = {}
        self.codebooks: dict[str, nn.Parameter] = {}
        for name, parameter in self.parameters.items():
            weight = parameter.detach()
            check_finite(weight, name)
            chosen = values if isinstance(values, int) else values[name]
            if isinstance(chosen, int):
                chosen = share_kmeans({name: weight.float().cpu().numpy()}, chosen)[name]
            if chosen.codes.shape != tuple(weight.shape):
                raise ValueError(
                    f"{name}: the codes have shape {chosen.codes.shape}, "
                    f"expected {tuple(weight.shape)}"
                )
            self.codes[name] = torch.from_numpy(chosen.codes).long().to(weight.device)
            codebook = torch.from_numpy(chosen.codebook())
            self.codebooks[name] = nn.Parameter(codebook.to(weight.device))
        self.write()

    @torch.no_grad()
    def gather_gradients(self) -> None:
        """Sums each weight's gradient into that of its shared value; that of zero is dropped."""
        for name, parameter in self.parameters.items():
            codebook = self.codebooks[name]
            if parameter.grad is None:
                codebook.grad = None
                continue
            total = torch.zeros_like(codebook)
            gradient = parameter.grad.reshape(-1).to(total.dtype)
            total.index_add_(0, self.codes[name].reshape(-1), gradient)
            total[0].zero_()
            codebook.grad = total

    @torch.no_grad()
    def write(self) -> None:
        """Sets every weight to its shared value."""
        for name, parameter in self.parameters.items():
            self.codebooks[name][0].zero_()
            parameter.copy_(self.codebooks[name][self.codes[name]])


class MovingCodes:
    """Weights that go on training while the network computes with their shared values.

    The gradient at the shared value moves the free weight that stands behind it, straight through
    the choice of the value, and a weight takes another value where it comes nearer to that. Call
    :meth:`restore` after ``backward``, before the optimizer's step, and :meth:`write` after it.
    Zeros stay zero, and values stay as they are.

    Args:
        parameters: by name; free weights, pruned already.
        shared: by name, what one of :mod:`tersor.methods` chose for them.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], shared: Mapping[str, Sharing]
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

    def shared(self) -> dict[str, Sharing]:
        """Values and codes as they are now, by name, for :class:`SharedWeights`."""
        made: dict[str, Sharing] = {}
        for name, kept in self._kept.items():
            numbers = self._numbers(name)
            taken, code = numbers[kept].unique(return_inverse=True)  # some may have lost all
            codes = torch.zeros_like(numbers, dtype=torch.uint8)
            codes[kept] = (code + 1).to(torch.uint8)
            made[name] = Sharing(codes.cpu().numpy(), self._values[name][taken].cpu().numpy())
        return made
