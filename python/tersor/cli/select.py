"""Which tensors of a bare state_dict ``tersor compress`` selects.

A state_dict tells names and shapes, and no types of modules. By default matrices and filters named
``*.weight`` are selected, and what the last module of the name shows to be a norm or an embedding
is left: ``norm1.linear.weight`` is a Linear, ``embed_tokens.weight`` a table.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tersor._names import near
from tersor.cli.errors import InputError
from tersor.io.floats import FLOAT_READERS

# Names of modules. Norms that are no vectors have a weight for each entry of an activation.
_NORM = re.compile(r"(\w*_)?((layer|batch|group|instance|rms)?_?norm|ln|bn)(_?\d+|_[a-z])?", re.I)
_EMBEDDING = re.compile(
    r"\w*emb(ed(ding)?s?)?|embed_(tokens|positions|in)|w[tp]e"
    r"|shared|relative_attention_bias|tok|pos|vocab|codebook",
    re.I,
)


class Described(Protocol):
    """A tensor as far as its selection depends on it."""

    @property
    def name(self) -> str:
        """In the state_dict."""

    @property
    def dtype(self) -> str:
        """As safetensors names it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the dense tensor."""


@dataclass(frozen=True)
class Selection:
    """What the user says about which tensors to compress.

    Attributes:
        only: shell patterns on names: select these, whatever their names suggest.
        skip: shell patterns on names: leave these; wins over ``only``.
        min_size: leave tensors with fewer elements.
        tables: select those of embeddings too, where nothing else decides.
    """

    only: Sequence[str] = ()
    skip: Sequence[str] = ()
    min_size: int = 0
    tables: bool = False


@dataclass(frozen=True)
class Choice:
    """Whether a tensor is compressed, and why; ``table``: by its name it is an embedding's."""

    name: str
    shape: tuple[int, ...]
    selected: bool
    reason: str
    table: bool = False

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "scalar"
        verb = "compress" if self.selected else "leave   "
        return f"{verb} {self.name}  {shape}  ({self.reason})"


def select(
    tensors: Iterable[Described], selection: Selection, aliases: Mapping[str, str]
) -> dict[str, Choice]:
    """The choice for each tensor, by name.

    Args:
        tensors: of the model.
        selection: what the user says.
        aliases: the stored name by the further one. A tensor with several names is selected only
            if none of them shows it to be a norm or an embedding, or matches ``skip``.

    Raises:
        InputError: a pattern matches no tensor; the message lists near names.
    """
    listed = list(tensors)
    names = {tensor.name for tensor in listed} | set(aliases)
    for option, patterns in (("--only", selection.only), ("--skip", selection.skip)):
        for pattern in patterns:
            check_pattern(option, pattern, names)
    further: dict[str, list[str]] = {}
    for alias, target in aliases.items():
        further.setdefault(target, []).append(alias)
    return {
        tensor.name: choose(tensor, selection, further.get(tensor.name, ()), names)
        for tensor in listed
    }


def check_pattern(option: str, pattern: str, names: Collection[str]) -> None:
    """Refuses a shell pattern that matches none of the names.

    Raises:
        InputError: the message has the option and near names.
    """
    if any(fnmatch.fnmatchcase(name, pattern) for name in names):
        return
    # Of a pattern of modules the near ones are modules.
    modules = {name.rpartition(".")[0] for name in names} - {""}
    bare = pattern.strip("*").strip(".") or pattern
    raise InputError(
        f"{option} '{pattern}' matches no tensor{near(bare, sorted({*names, *modules}))}"
    )


def choose(
    tensor: Described,
    selection: Selection = Selection(),
    aliases: Sequence[str] = (),
    names: Collection[str] = (),
) -> Choice:
    """Whether ``compress`` selects a tensor of a bare state_dict.

    Args:
        tensor: its name, type and shape.
        selection: what the user says.
        aliases: further names of the tensor.
        names: of all tensors: a module with a bias is no embedding.
    """
    own = (tensor.name, *aliases)
    by_name = {name: _left_by_name(name, tensor.shape, names) for name in own}
    table = "embedding" in by_name.values()

    def made(selected: bool, reason: str) -> Choice:
        return Choice(tensor.name, tensor.shape, selected, reason, table)

    if reason := _not_compressible(tensor, selection.min_size):
        return made(False, reason)
    if pattern := _match(own, selection.skip):
        return made(False, f"--skip {pattern}")
    if selection.only:
        pattern = _match(own, selection.only)
        reason = f"--only {pattern}" if pattern else "not matched by --only"
        return made(pattern is not None, reason)
    for name, reason in by_name.items():
        if reason and not (selection.tables and reason == "embedding"):
            return made(False, reason if name == tensor.name else f"tied to {name}: {reason}")
    kind = "matrix" if len(tensor.shape) == 2 else "filter"
    return made(True, "embedding" if table else kind)


def _match(names: Iterable[str], patterns: Sequence[str]) -> str | None:
    return next((p for p in patterns for n in names if fnmatch.fnmatchcase(n, p)), None)


def _not_compressible(tensor: Described, min_size: int) -> str:
    """Why no option selects a tensor; empty if it may be."""
    elements = math.prod(tensor.shape)
    if tensor.dtype == "C64":
        return "complex weights are not compressed"
    if tensor.dtype not in FLOAT_READERS:
        return f"dtype {tensor.dtype}"
    if len(tensor.shape) < 2:
        return "not a matrix or filter"
    if elements == 0:
        return "empty"
    if elements < min_size:
        return f"fewer than {min_size} elements"
    return ""


def _left_by_name(name: str, shape: tuple[int, ...], names: Collection[str]) -> str:
    """Why a tensor is left by default; empty if it is not."""
    module, _, leaf = name.rpartition(".")
    if leaf != "weight":
        return "not named *.weight"
    last = module.rpartition(".")[2]
    if _NORM.fullmatch(last):
        return "norm"
    if len(shape) == 2 and f"{module}.bias" not in names and _EMBEDDING.fullmatch(last):
        return "embedding"
    return ""
