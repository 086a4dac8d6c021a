"""Trained codebooks: every weight is a code into its layer's codebook, whose entries are trained.

Source: Han et al., Deep Compression (arXiv 1510.00149), section 3: the gradient of a codebook entry
is the sum of its members' gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tersor._validation import check_finite
from tersor.pruning.optimizer_hooks import AroundSteps
from tersor.quantizers.base import Quantized
from tersor.quantizers.kmeans import quantize_kmeans


class SharedWeights(AroundSteps):
    """The weights of some parameters, held as codes into trainable codebooks.

    Attach it to the optimizer of the codebooks: before each step the gradients of a codebook
    entry's members are summed into the entry's gradient, after each step every weight is set to its
    entry. Zeros stay zero. Where no hooks can be, call :meth:`gather_gradients` and :meth:`write`.

    An optimizer of the weights themselves does as well, if it is to go on with what it has: each
    weight gets the sum as its gradient, and an entry moves as its members do in the mean.

    Args:
        parameters: by name; pruned already.
        quantized: codes and codebook by name, as a function of :mod:`tersor.quantizers` gives them;
            or the codebook size, 1 to 255, for all or by name, for k-means of each parameter.

    Raises:
        ValueError: a name is missing, codes have another shape than their parameter, or a weight
            that is to be clustered holds NaN or infinity.

    Attributes:
        codes: by name, int64 of the parameter's shape; 0 = pruned.
        codebooks: by name, trainable float32 ``[k + 1]``; entry 0 stays zero.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        quantized: int | Mapping[str, int | Quantized],
    ) -> None:
        self.parameters = dict(parameters)
        if not isinstance(quantized, int) and (
            missing := sorted(parameters.keys() - quantized.keys())
        ):
            raise ValueError(f"no codes and no codebook size are given for {missing}")
        self.codes: dict[str, torch.Tensor] = {}
        self.codebooks: dict[str, nn.Parameter] = {}
        self._moved: list[str] = []  # those whose weights the optimizer has, not the codebook
        for name, parameter in self.parameters.items():
            given = quantized if isinstance(quantized, int) else quantized[name]
            if isinstance(given, int):
                weight = parameter.detach()
                check_finite(weight, name)
                given = quantize_kmeans({name: weight.float().cpu().numpy()}, given)[name]
            codes = torch.from_numpy(given.codes).long()
            codebook = torch.from_numpy(given.codebook())
            self._check(name, codes, codebook)
            self.codes[name] = codes.to(parameter.device)
            self.codebooks[name] = nn.Parameter(codebook.to(parameter.device))
        self.write()

    def _check(self, name: str, codes: torch.Tensor, codebook: torch.Tensor) -> None:
        expected = self.parameters[name].shape
        if codes.shape != expected:
            raise ValueError(
                f"{name}: the codes have shape {tuple(codes.shape)}, expected {tuple(expected)}"
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < len(codebook):
            raise ValueError(
                f"{name}: codes are {int(codes.min())} to {int(codes.max())}, but the codebook has "
                f"{len(codebook)} entries"
            )

    def attach(self, optimizer: torch.optim.Optimizer) -> list[Any]:
        """Follows an optimizer's steps; ``remove()`` of each handle detaches."""
        self.follow(optimizer)
        return super().attach(optimizer)

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes note of which weights an optimizer moves itself."""
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._moved = [name for name, p in self.parameters.items() if id(p) in trained]

    @torch.no_grad()
    def gather_gradients(self) -> None:
        """Sums each weight's gradient into that of its codebook entry; that of zero is dropped."""
        for name, parameter in self.parameters.items():
            codebook = self.codebooks[name]
            if parameter.grad is None:
                codebook.grad = None
                continue
            codebook.grad = self._sums(name, parameter.grad)
            if name in self._moved:
                parameter.grad.copy_(codebook.grad[self.codes[name]])

    before_step = gather_gradients

    def _sums(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Sums by code of as many values as a parameter has, float32 ``[k + 1]``; of code 0: 0."""
        sums = torch.zeros_like(self.codebooks[name])
        sums.index_add_(0, self.codes[name].reshape(-1), values.reshape(-1).to(sums.dtype))
        sums[0].zero_()
        return sums

    @torch.no_grad()
    def after_step(self) -> None:
        """Moves entries as an optimizer of the weights moved their members; and writes."""
        for name in self._moved:
            weight, codebook, codes = self.parameters[name], self.codebooks[name], self.codes[name]
            members = torch.bincount(codes.reshape(-1), minlength=len(codebook)).clamp(min=1)
            # Sums of moves, which are small: those of many weights would lose digits every time.
            moves = weight - codebook[codes].to(weight.dtype)
            codebook.add_(self._sums(name, moves) / members)
        self.write()

    @torch.no_grad()
    def write(self) -> None:
        """Sets every weight to its codebook entry."""
        for name, parameter in self.parameters.items():
            self.codebooks[name][0].zero_()
            parameter.copy_(self.codebooks[name][self.codes[name]])

    def state_dict(self) -> dict[str, dict[str, torch.Tensor]]:
        """``codes`` (uint8) and ``codebooks`` (float32) by name, for a checkpoint."""
        return {
            "codes": {name: codes.to(torch.uint8) for name, codes in self.codes.items()},
            "codebooks": {name: c.detach().clone() for name, c in self.codebooks.items()},
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Takes codes and codebooks of a checkpoint and sets every weight to its entry.

        The codebooks stay the same parameters, so an optimizer that has them keeps them.

        Raises:
            ValueError: a name is missing or a shape differs; nothing was replaced.
        """
        for part in ("codes", "codebooks"):
            if missing := sorted(self.parameters.keys() - state.get(part, {}).keys()):
                raise ValueError(f"missing {part} in state_dict: {missing}")
        for name in self.parameters:
            self._check(name, state["codes"][name], state["codebooks"][name])
        for name, codebook in self.codebooks.items():
            self.codes[name].copy_(state["codes"][name])
            saved = state["codebooks"][name].to(codebook)
            if saved.shape == codebook.shape:
                codebook.copy_(saved)  # in place: a captured CUDA graph reads the same memory
            else:
                codebook.data = saved
        self.write()
