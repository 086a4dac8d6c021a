"""The weight of a compressed layer as code that expects a dense one sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map_only

if TYPE_CHECKING:
    from tersor.nn.base import Compressed


class CompressedWeight(torch.Tensor):
    """Has the shape, dtype and device of the dense weight, and holds none of it.

    Whatever is computed with it is computed with the dense weight, decoded for that one operation.
    Being a tensor of its own type it also makes torch's fused paths, which read weights past the
    layer's ``forward``, step aside.
    """

    layer: Compressed

    @staticmethod
    def __new__(cls, layer: Compressed) -> CompressedWeight:
        made = torch.Tensor._make_wrapper_subclass(
            cls, layer.shape, dtype=layer.dtype, device=layer.weight_blob.device
        )
        made.layer = layer
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        """Without the values, which would have to be decoded."""
        return f"CompressedWeight(shape={tuple(self.shape)}, dtype={self.dtype})"

    def dense(self) -> torch.Tensor:
        """The dense weight, decoded, in the layer's dtype and on its device."""
        return self.layer.dense_weight().to(self.device, self.dtype)

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
            raise RuntimeError(
                f"{func}: a compressed weight cannot be changed in place; "
                "call tersor.decompress_(model) first"
            )
        dense = tree_map_only(CompressedWeight, lambda w: w.dense(), (args, kwargs))
        return func(*dense[0], **(dense[1] or {}))
