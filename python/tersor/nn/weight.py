"""The weight of a compressed layer as code that expects a dense one sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map_only

if TYPE_CHECKING:
    from tersor.nn.base import Compressed


class CompressedWeight(torch.Tensor):
    """Has the shape and type of the dense weight, and holds none of it.

    Whatever is computed with it is computed with the dense weight, decoded for that one operation.
    Being a tensor of its own type it also makes torch's fused paths, which read weights past the
    layer's ``forward``, step aside.
    """

    _layer: Compressed

    @staticmethod
    def __new__(cls, layer: Compressed) -> CompressedWeight:
        made = torch.Tensor._make_wrapper_subclass(cls, layer.shape, dtype=torch.float32)
        made._layer = layer
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        """Without the values, which would have to be decoded."""
        return f"CompressedWeight(shape={tuple(self.shape)})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs an operation on the dense weight.

        Raises:
            RuntimeError: the operation would change the weight in place.
        """
        if func._schema.is_mutable:
            raise RuntimeError(f"{func}: a compressed weight cannot be changed in place")
        dense = tree_map_only(CompressedWeight, lambda w: w._layer.dense_weight(), (args, kwargs))
        return func(*dense[0], **(dense[1] or {}))
