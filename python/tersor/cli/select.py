"""Which tensors of a bare state_dict ``tersor compress`` takes."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tersor.io.floats import FLOAT_READERS

# A tensor whose name has one of these words is an embedding or a norm, and is left as it is.
_LEFT = re.compile(
    r"(^|[._])(\w*emb|\w*embed(ding)?s?|wte|wpe|\w*norm\d*|bn\d*|ln(\d*|_\w+))[._]", re.IGNORECASE
)


@dataclass(frozen=True)
class Choice:
    """Whether a tensor is compressed, and why."""

    name: str
    shape: tuple[int, ...]
    taken: bool
    reason: str

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "scalar"
        verb = "compress" if self.taken else "leave   "
        return f"{verb} {self.name}  {shape}  ({self.reason})"


def choose(
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    min_size: int = 0,
) -> Choice:
    """Whether ``compress`` takes a tensor of a bare state_dict.

    By default matrices and filters named ``*.weight``, embeddings and norms left. ``only`` and
    ``skip`` are shell patterns on names; ``skip`` wins, and ``only`` overrules the names' defaults.
    ``min_size`` counts elements.
    """

    def choice(taken: bool, reason: str) -> Choice:
        return Choice(name, shape, taken, reason)

    def matches(patterns: Sequence[str]) -> str | None:
        return next((p for p in patterns if fnmatch.fnmatchcase(name, p)), None)

    if dtype not in FLOAT_READERS:
        return choice(False, f"dtype {dtype}")
    if len(shape) < 2:
        return choice(False, "not a matrix or filter")
    if math.prod(shape) == 0:
        return choice(False, "empty")
    if math.prod(shape) < min_size:
        return choice(False, f"under {min_size} elements")
    if pattern := matches(skip):
        return choice(False, f"--skip {pattern}")
    if only:
        pattern = matches(only)
        return choice(pattern is not None, f"--only {pattern or 'names others'}")
    if name != "weight" and not name.endswith(".weight"):
        return choice(False, "not named *.weight")
    if _LEFT.search(name):
        return choice(False, "embedding or norm")
    return choice(True, "matrix" if len(shape) == 2 else "filter")
