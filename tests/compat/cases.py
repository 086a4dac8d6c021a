"""A family in one dtype: the dense network, and what compression makes of it."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

import tersor
from tersor.codec.blob import SUFFIX
from tests.compat.families import Family, Inputs

# Relative errors that rounding in these types explains.
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
# What quantization to 127 codebook entries adds to the output of a network.
QUANTIZATION = 8e-2


class Case:
    """A family in one dtype. What it holds is shared between tests: copy it before it is changed.

    Attributes:
        family: what is expected.
        dtype: of the network and its inputs.
        folder: for files.
    """

    def __init__(self, family: Family, dtype: torch.dtype, folder: Path) -> None:
        self.family, self.dtype, self.folder = family, dtype, folder

    def build(self, device: str = "cpu") -> nn.Module:
        """The dense network, the same each time; on the meta device without weights."""
        torch.manual_seed(0)
        with torch.device(device):
            return self.family.build().eval().to(self.dtype)

    @cached_property
    def dense(self) -> nn.Module:
        """The network."""
        return self.build()

    @cached_property
    def inputs(self) -> Inputs:
        """Keyword arguments of the network."""
        return {
            name: value.to(self.dtype)
            if isinstance(value, torch.Tensor) and value.is_floating_point()
            else value
            for name, value in self.family.inputs().items()
        }

    @cached_property
    def compressed(self) -> nn.Module:
        """The network, compressed."""
        return tersor.compress_(copy.deepcopy(self.dense), tersor.Config.balanced())

    @cached_property
    def decompressed(self) -> nn.Module:
        """The network with the weights that the compressed one stands for."""
        return tersor.decompress_(copy.deepcopy(self.compressed))

    @cached_property
    def output(self) -> torch.Tensor:
        """What the compressed network computes."""
        return self.run(self.compressed)

    @cached_property
    def file(self) -> Path:
        """The compressed network, saved."""
        path = self.folder / "model.safetensors"
        tersor.save(self.compressed, path)
        return path

    def run(self, model: nn.Module) -> torch.Tensor:
        """The output of a model for the inputs of this case."""
        with torch.no_grad():
            return tensor_of(model(**self.inputs))


def tensor_of(output: Any) -> torch.Tensor:
    """The tensor in what a network gives: itself, or the logits of ``transformers``."""
    tensor: torch.Tensor = output if isinstance(output, torch.Tensor) else output.logits
    return tensor


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over that of what is expected, in float64."""
    expected = expected.detach().double()
    difference = found.detach().double() - expected
    return float(difference.norm() / expected.norm().clamp(min=1e-30))


def tied_names(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Names in the state that are one tensor; compressed weights go by their dense names."""
    groups: dict[int, list[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        groups.setdefault(id(value), []).append(name.removesuffix(SUFFIX))
    return tuple(sorted(tuple(sorted(names)) for names in groups.values() if len(names) > 1))


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a dense network that have parameters of their own, by name."""
    return {name: module for name, module in model.named_modules() if module._parameters}
