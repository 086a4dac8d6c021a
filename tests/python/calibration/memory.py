"""How large tensors get, for tests of memory bounds."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakBytes(TorchDispatchMode):
    """The most bytes at once of tensors that are made within it."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.now = 0
        self._users: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **kwargs or {})
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if is_real(t)}
        for tensor in filter(is_real, tree_leaves(made)):
            storage = tensor.untyped_storage()
            place, size = storage.data_ptr(), storage.nbytes()
            if place not in self._users and place in given:
                continue  # a view of what was there before
            if not self._users[place]:
                self.now += size
            self._users[place] += 1
            weakref.finalize(tensor, self._free, place, size)
        self.peak = max(self.peak, self.now)
        return made

    def _free(self, place: int, size: int) -> None:
        self._users[place] -= 1
        if not self._users[place]:
            del self._users[place]
            self.now -= size


def is_real(value: Any) -> bool:
    """Whether a value is a tensor with memory."""
    return isinstance(value, torch.Tensor) and value.numel() > 0


class LargestTensor(TorchDispatchMode):
    """The elements of the largest tensor that is made within it."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **kwargs or {})
        sizes = [t.numel() for t in tree_leaves(made) if isinstance(t, torch.Tensor)]
        self.size = max([self.size, *sizes])
        return made
