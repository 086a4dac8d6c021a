"""Reading as ``safetensors.safe_open`` does, of files whose tensors are stored without loss too."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch

from tersor.io import container
from tersor.io.state_dict import TORCH_DTYPES, from_raw, to_torch

_FRAMEWORKS = ("pt", "torch", "pytorch")


class _Slice:
    """A tensor of which a part is asked for by an index."""

    def __init__(self, view: container.TensorView, device: str) -> None:
        self._view = view
        self._device = device

    def get_shape(self) -> list[int]:
        """Of the tensor."""
        return list(self._view.shape)

    def get_dtype(self) -> str:
        """As safetensors names it."""
        return self._view.dtype

    def __getitem__(self, index: Any) -> torch.Tensor:
        """The part; of rows in a range only those are read."""
        view = self._view
        first, *rest = index if isinstance(index, tuple) else (index,)
        if not isinstance(first, slice) or first.step not in (None, 1) or not view.shape:
            return to_torch(view).to(self._device)[index]
        start, stop, _ = first.indices(view.shape[0])
        rows = max(0, stop - start)
        raw = view.row_bytes(start, rows)
        raw = raw if view.lossless else raw.copy()
        part = from_raw(raw, view.dtype, (rows, *view.shape[1:]))
        inside = (slice(None), *rest)
        return part[inside].to(self._device)


class safe_open:  # noqa: N801  the name that loaders know
    """A file, opened to read tensors by name: the methods of ``safetensors.safe_open``.

    Compressed layers are not tensors of a dense model: :func:`tersor.load_model` runs them, and
    ``tersor decompress`` makes them dense.

    Args:
        filename: of a file that tersor wrote, or any other of safetensors.
        framework: ``pt`` alone.
        device: where tensors go.

    Raises:
        FormatError: the file is malformed.
        ValueError: the framework is another, or the file holds compressed layers.
    """

    def __init__(
        self, filename: str | os.PathLike[str], framework: str = "pt", device: str = "cpu"
    ) -> None:
        if framework not in _FRAMEWORKS:
            raise ValueError(f"framework '{framework}' is not 'pt'")
        self._file = container.open(filename)
        if self._file.differences:
            raise ValueError(
                f"{filename}: holds differences from another checkpoint: use tersor decompress "
                "--base first"
            )
        layers = [name for name, view in self._file.tensors.items() if view.compressed]
        if layers:
            raise ValueError(
                f"{filename}: {layers[0]} is a compressed layer: use tersor.load_model, or "
                "tersor decompress first"
            )
        self._device = str(device)

    def keys(self) -> list[str]:
        """Names in alphabetical order."""
        return list(self._file.tensors)

    def offset_keys(self) -> list[str]:
        """Names in the order of the file."""
        return sorted(self._file.tensors, key=lambda name: self._file.tensors[name].offset)

    def metadata(self) -> dict[str, str] | None:
        """Texts of the header, without those that are tersor's."""
        texts = self._file.metadata.items()
        return {key: text for key, text in texts if not key.startswith("tersor.")} or None

    def _view(self, name: str) -> container.TensorView:
        if name not in self._file.tensors:
            raise KeyError(f"{self._file.path} has no tensor {name!r}")
        view = self._file.tensors[name]
        if view.dtype not in TORCH_DTYPES:
            raise ValueError(f"{name}: torch has no type for {view.dtype}")
        return view

    def get_tensor(self, name: str) -> torch.Tensor:
        """A tensor, decoded or copied.

        Raises:
            KeyError: there is none of that name.
        """
        return to_torch(self._view(name)).to(self._device)

    def get_tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by their names."""
        return {name: self.get_tensor(name) for name in self.offset_keys()}

    def get_slice(self, name: str) -> _Slice:
        """A tensor of which a part is to be read.

        Raises:
            KeyError: there is none of that name.
        """
        return _Slice(self._view(name), self._device)

    def __enter__(self) -> safe_open:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to do: the file is released with the last tensor that is read from it."""


@contextmanager
def patch_safetensors() -> Iterator[None]:
    """Within it, whatever loads by the ``safetensors`` library reads files stored without loss too.

    Replaced are ``safetensors.safe_open`` and the same under its name in every module that has
    imported it; ``safetensors.torch.load_file`` and the loaders of transformers and diffusers go
    through these. Other frameworks than torch, and files that are no file of tersor, are read as
    they were. Not for several threads at once.

    Raises:
        ImportError: there is no ``safetensors``.
    """
    import safetensors

    original = safetensors.safe_open

    def opened(filename: Any, framework: str = "pt", device: Any = "cpu", **others: Any) -> Any:
        """Stands in for ``safetensors.safe_open``."""
        if framework in _FRAMEWORKS and container.open(filename).is_tersor:
            return safe_open(filename, framework, device)
        return original(filename, framework=framework, device=device, **others)

    names = [getattr(module, "__dict__", {}) for module in list(sys.modules.values())]
    places = [of_module for of_module in names if of_module.get("safe_open") is original]
    for place in places:
        place["safe_open"] = opened
    try:
        yield
    finally:
        for place in places:
            place["safe_open"] = original
