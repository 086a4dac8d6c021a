"""Weights that are calibrated already, kept in a folder so that an interrupted run can continue.

A result is named by the hash of everything that it follows from: the inputs, and of its layer and
all before it the dense weight and the settings. Another model, other settings or other inputs find
nothing. A file is written beside its place and renamed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from tersor import __version__
from tersor.calibration.inputs import Batch, parts_of


class Results:
    """Results of one run, in the order in which they are asked for.

    Args:
        folder: is made where it is missing.
        batches: calibration inputs.
    """

    def __init__(self, folder: Path, batches: Iterable[Batch]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = hashlib.sha256(__version__.encode())
        for batch in batches:
            for part in parts_of(batch):
                self._add(part)

    def next_is(self, *parts: Any) -> None:
        """Says what the next result follows from: tensors, and what has a text of its own."""
        for part in parts:
            self._add(part)

    def load(self) -> dict[str, torch.Tensor] | None:
        """The next result, if there is one."""
        try:
            found: dict[str, torch.Tensor] = torch.load(
                self._path, map_location="cpu", weights_only=True
            )
        except FileNotFoundError:
            return None
        return found

    def save(self, result: dict[str, torch.Tensor]) -> None:
        """Keeps the next result."""
        beside = self._path.with_suffix(f".{os.getpid()}")
        torch.save(result, beside)
        beside.replace(self._path)

    @property
    def _path(self) -> Path:
        return self.folder / f"{self._key.hexdigest()[:32]}.pt"

    def _add(self, part: Any) -> None:
        if isinstance(part, torch.Tensor):
            self._key.update(f"{part.dtype}{list(part.shape)}".encode())
            plain = part.detach().cpu().contiguous().reshape(-1)
            self._key.update(plain.view(torch.uint8).numpy().tobytes())
        else:
            self._key.update(repr(part).encode())
