"""What the tests of the command line share: its outcome, and tensors to write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tersor.io.container import Tensor


@dataclass(frozen=True)
class Done:
    """What a command did."""

    status: int
    stdout: str
    stderr: str

    def verbs(self) -> dict[str, str]:
        """``compress`` or ``leave`` by tensor, the last line of each."""
        lines = [line.split() for line in self.stdout.splitlines()]
        return {words[1]: words[0] for words in lines if words[:1] in (["compress"], ["leave"])}


Run = Callable[..., Done]
Fails = Callable[..., str]


def f32(array: np.ndarray) -> Tensor:
    """An array as a tensor to write."""
    array = np.ascontiguousarray(array, np.float32)
    return Tensor("F32", array.shape, array)


def bf16(array: np.ndarray) -> Tensor:
    """An array as a tensor to write, in bfloat16."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16
    return Tensor("BF16", array.shape, bits.astype(np.uint16))
