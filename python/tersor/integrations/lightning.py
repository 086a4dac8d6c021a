"""Lightning: pruning and shared weights while its ``Trainer`` runs.

Supported are versions 2.5 and later of ``lightning``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from tersor.training import Compressor


class CompressorCallback(Callback):
    """Lets a :class:`tersor.training.Compressor` follow a ``Trainer``, and its checkpoints.

    ::

        compressor = Compressor(module, Schedule(density=0.2, prune_end=2000, share_at=3000))
        Trainer(..., callbacks=[CompressorCallback(compressor)]).fit(module, batches)
        tersor.save(compressor.finish(), "small.safetensors")

    Where several optimizers train the module, it follows the one that trains the first weight.
    """

    def __init__(self, compressor: Compressor) -> None:
        self.compressor = compressor
        self._restored: Mapping[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attaches to the optimizer, at the step where a checkpoint stands."""
        if self._restored is not None:  # not before: by now the weights are on their device
            self.compressor.load_state_dict(self._restored)
            self._restored = None
        first = next(iter(self.compressor.weights.values()))
        chosen = [o for o in trainer.optimizers if _trains(o, first)] or trainer.optimizers
        self.compressor.attach(chosen[0])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the optimizer."""
        self.compressor.detach()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leaves the optimizer."""
        self.compressor.detach()

    def state_dict(self) -> dict[str, Any]:
        """What the trainer writes into its checkpoints."""
        return self.compressor.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What it read from one."""
        self._restored = state_dict


def _trains(optimizer: Any, weight: Any) -> bool:
    return any(p is weight for group in optimizer.param_groups for p in group["params"])
