"""The weight of a compressed layer as code that expects a dense one sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from tersor.ops import torch_internals

if TYPE_CHECKING:
    from tersor.nn.base import Compressed

_UNCHANGEABLE = (
    "{}: a compressed weight cannot be changed in place; call tersor.decompress_(model) first"
)


class CompressedWeight(torch.Tensor):
    """Has the shape, dtype and device of the dense weight, and holds none of it.

    Whatever is computed with it is computed with the dense weight, decoded for that one operation.
    Torch's fused paths, which read weights past the layer's ``forward``, step aside for it.
    """

    layer: Compressed
    # Torch asks this of tensors: the weight passes for a parameter, as by the look-up of names by
    # which ``transformers`` ties weights.
    _is_param = True

    @staticmethod
    def __new__(cls, layer: Compressed) -> CompressedWeight:
        device = layer.weight_blob.device
        made: CompressedWeight = torch_internals.stand_in(cls, layer.shape, layer.dtype, device)
        made.layer = layer
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        """Without the values, which would have to be decoded."""
        return f"CompressedWeight(shape={tuple(self.shape)}, dtype={self.dtype})"

    def dense(self) -> torch.Tensor:
        """The dense weight, decoded, in the layer's dtype and on its device."""
        return self.layer.dense_weight().to(self.device, self.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        """A dense copy, as that of ``clone()``."""
        return self.dense()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickled as the dense weight."""
        return self.dense().__reduce_ex__(protocol)

    def detach(self) -> CompressedWeight:
        """Itself, which carries no gradient: a dense copy would take changes that are then lost."""
        return self

    @property
    def data(self) -> torch.Tensor:
        """As :meth:`detach`."""
        return self

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        """Refuses: it would change a stand-in that is thrown away."""
        raise RuntimeError(_UNCHANGEABLE.format("data"))

    def __setitem__(self, index: Any, value: Any) -> None:
        """Refuses: it would change a dense copy that is thrown away."""
        raise RuntimeError(_UNCHANGEABLE.format("an assignment to items"))

    def numpy(self, *, force: bool = False) -> Any:
        """The dense weight as an array of its own."""
        return self.dense().numpy(force=force)

    def tolist(self) -> Any:
        """The dense weight as nested lists."""
        return self.dense().tolist()

    if torch_internals.has_function_scope:

        @classmethod
        def __torch_function__(
            cls,
            func: Any,
            types: Sequence[type],
            args: Sequence[Any] = (),
            kwargs: Mapping[str, Any] | None = None,
        ) -> Any:
            """Does nothing; that there is one tells torch's fused layers to step aside."""
            with torch_internals.without_torch_function():
                return func(*args, **(kwargs or {}))

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
        if torch_internals.is_mutable(func):
            raise RuntimeError(_UNCHANGEABLE.format(func))
        return func(*_dense(tuple(args)), **_dense(dict(kwargs or {})))


def _dense(value: Any) -> Any:
    """Arguments of an operator with dense weights in the places of compressed ones."""
    if isinstance(value, CompressedWeight):
        return value.dense()
    if isinstance(value, (list, tuple)):
        return type(value)([_dense(item) for item in value])
    if isinstance(value, dict):
        return {name: _dense(item) for name, item in value.items()}
    return value
