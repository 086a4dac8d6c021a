"""Names of layers: wrappers' prefixes taken off, and what stands nearest to a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase


def without_wrappers(name: str, prefix: str = "") -> str:
    """A name without the prefix of the wrappers around a model, and without ``_orig_mod`` inside.

    ``torch.compile`` puts ``_orig_mod.`` before the names of what it wraps, DDP ``module.``.
    """
    parts = name.removeprefix(prefix).split(".")
    return ".".join(part for part in parts if part != "_orig_mod")


def joined(owner: str, name: str) -> str:
    """The name of something in a module; that of the model itself is empty."""
    return f"{owner}.{name}" if owner else name


def matches(pattern: str, names: Iterable[str]) -> bool:
    """Whether a pattern (as :mod:`fnmatch`) matches a layer's name (``fc``) or its weight's."""
    return any(
        fnmatchcase(name, pattern) or fnmatchcase(joined(name, "weight"), pattern) for name in names
    )


def near(name: str, names: Iterable[str], count: int = 3) -> str:
    """A hint for a message: the names most like a mistyped one, or the first ones."""
    known = list(dict.fromkeys(names))
    found = difflib.get_close_matches(name, known, count, 0.5) or known[:count]
    return f"; there are {', '.join(found)}" if found else ""


def listed(names: Sequence[str], count: int = 5) -> str:
    """Names for a message: the first ones, and how many there are beside."""
    shown = ", ".join(names[:count])
    return f"{shown} and {len(names) - count} others" if len(names) > count else shown
