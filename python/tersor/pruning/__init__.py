"""Pruning: by magnitude, with masks during training, and of neurons and channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tersor._lazy import lazy_exports

if TYPE_CHECKING:
    from tersor.pruning.masks import Masks, density_masks, masks_from_torch_prune, threshold_mask
    from tersor.pruning.neurons import remove_dead_neurons_, sort_neurons_
    from tersor.pruning.schedules import CubicSchedule, Retraining, RoundSchedule

__all__ = [
    "CubicSchedule",
    "Masks",
    "Retraining",
    "RoundSchedule",
    "density_masks",
    "masks_from_torch_prune",
    "remove_dead_neurons_",
    "sort_neurons_",
    "threshold_mask",
]

# Lazily: magnitude.py beside these needs no torch.
__getattr__ = lazy_exports(
    "tersor.pruning",
    {
        "CubicSchedule": "tersor.pruning.schedules:CubicSchedule",
        "Masks": "tersor.pruning.masks:Masks",
        "Retraining": "tersor.pruning.schedules:Retraining",
        "RoundSchedule": "tersor.pruning.schedules:RoundSchedule",
        "density_masks": "tersor.pruning.masks:density_masks",
        "masks_from_torch_prune": "tersor.pruning.masks:masks_from_torch_prune",
        "remove_dead_neurons_": "tersor.pruning.neurons:remove_dead_neurons_",
        "sort_neurons_": "tersor.pruning.neurons:sort_neurons_",
        "threshold_mask": "tersor.pruning.masks:threshold_mask",
    },
)


def __dir__() -> list[str]:
    return list(__all__)
