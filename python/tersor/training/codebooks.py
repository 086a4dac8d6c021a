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

from tersor._validation import check_finite
from tersor.quantizers.base import Quantized
from tersor.quantizers.kmeans import quantize_kmeans


class SharedWeights:
    """The weights of some parameters, held as codes into trainable codebooks.

    After each ``backward``, :meth:`gather_gradients` sums the gradients of each value's members
    into the codebook's gradient; after the optimizer's step, :meth:`write` sets every weight to
    its value. Zeros stay zero.

    Args:
        parameters: by name; pruned already.
        values: shared values beside zero, 1 to 255, for all or by name; or by name what one of
            :mod:`tersor.quantizers.base` chose.

    Raises:
        ValueError: a weight holds NaN or infinity, or a name has no number of values.

    Attributes:
        codes: by name, int64 of the parameter's shape; 0 = pruned.
        codebooks: by name, trainable float32 ``[k + 1]``; entry 0 stays zero.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], values: int | Mapping[str, int | Quantized]
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
                chosen = quantize_kmeans({name: weight.float().cpu().numpy()}, chosen)[name]
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
