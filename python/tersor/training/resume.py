"""Resuming: what a training run needs to go on after it was stopped, in one file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import torch


class Stateful(Protocol):
    """Whatever has a state: models, optimizers, :class:`Masks`, :class:`SharedWeights`, …"""

    def state_dict(self) -> Any:
        """The state."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Takes a state."""


class TrainingState:
    """The state of a training run in a file that is replaced as a whole after each epoch.

    Args:
        path: the file, whose folder is made; None = nothing is kept.
        settings: text that says what the run does; a file of other settings is refused.
        parts: by name, what the run changes. Order counts: they are loaded one after the other.
    """

    def __init__(self, path: str | Path | None, settings: str = "", /, **parts: Stateful) -> None:
        self.path = None if path is None else Path(path)
        self.settings = settings
        self.parts = parts

    def load(self, device: torch.device | str = "cpu") -> int:
        """Brings every part to where the file left it.

        Returns:
            The number of epochs that are done; 0 where there is no file, and nothing was loaded.

        Raises:
            ValueError: the file is of a run with other parts or settings; nothing was loaded.
        """
        if self.path is None or not self.path.exists():
            return 0
        saved = torch.load(self.path, map_location=device, weights_only=True)
        expected = {*self.parts, "epoch", "settings"}
        if set(saved) != expected:
            raise ValueError(
                f"{self.path}: holds {sorted(saved)}, expected {sorted(expected)}; "
                "delete the file to start anew"
            )
        if saved["settings"] != self.settings:
            raise ValueError(
                f"{self.path}: is of a run with the settings {saved['settings']!r}, not "
                f"{self.settings!r}; delete the file to start anew"
            )
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        return int(saved["epoch"])

    def save(self, epochs: int) -> None:
        """Replaces the file.

        Args:
            epochs: the number of epochs that are done.
        """
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(self.path.name + ".new")
        state = {name: part.state_dict() for name, part in self.parts.items()}
        torch.save({**state, "epoch": epochs, "settings": self.settings}, new)
        os.replace(new, self.path)
