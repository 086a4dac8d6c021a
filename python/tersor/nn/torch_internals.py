"""Names of torch that are not public, in one place, each with what stands in where it is missing.

They tell a module whether it may call its kernel past torch's dispatcher. Where torch has no such
name any more, the answer is the cautious one: through the dispatcher, which is slower and right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad


def _find(path: str, fallback: Callable[[], Any]) -> Callable[[], Any]:
    """The function at a path below ``torch``, or the fallback."""
    found: Any = torch
    for part in path.split("."):
        found = getattr(found, part, None)
    return found if callable(found) else fallback


# Looked up once: each takes a percent of a small layer's time to find.
is_any_autocast_enabled = _find("_C._is_any_autocast_enabled", lambda: True)
is_tracing = _find("_C._is_tracing", lambda: True)
dispatch_modes = _find("_C._len_torch_dispatch_stack", lambda: 1)
function_transform = _find("_C._functorch.peek_interpreter_stack", lambda: True)


def forward_mode() -> bool:
    """Whether a forward-mode derivative may be under way."""
    return bool(getattr(forward_ad, "_current_level", 0) >= 0)


def share_data(target: torch.Tensor, source: torch.Tensor) -> bool:
    """Gives a tensor the data of another and keeps its identity; False where torch cannot."""
    compatible = getattr(torch, "_has_compatible_shallow_copy_type", lambda *_: False)
    if not compatible(target, source):
        return False
    target.data = source
    return True
