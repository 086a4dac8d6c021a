"""Training of pruned and quantized networks: a loop, recipes, and what an optimizer trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tersor._lazy import lazy_exports

if TYPE_CHECKING:
    from tersor.training.assignments import TrainedAssignments
    from tersor.training.codebooks import SharedWeights
    from tersor.training.compressor import Compressor, Schedule
    from tersor.training.distillation import distillation_loss
    from tersor.training.learning_rates import CosineRate, Position
    from tersor.training.loop import EpochResult, Examples, Loop
    from tersor.training.recipe import Recipe
    from tersor.training.recipe_trainer import Progress, RecipeTrainer
    from tersor.training.resume import TrainingState

__all__ = [
    "Compressor",
    "CosineRate",
    "EpochResult",
    "Examples",
    "Loop",
    "Position",
    "Progress",
    "Recipe",
    "RecipeTrainer",
    "Schedule",
    "SharedWeights",
    "TrainedAssignments",
    "TrainingState",
    "distillation_loss",
]

__getattr__ = lazy_exports(
    "tersor.training",
    {
        "Compressor": "tersor.training.compressor:Compressor",
        "CosineRate": "tersor.training.learning_rates:CosineRate",
        "EpochResult": "tersor.training.loop:EpochResult",
        "Examples": "tersor.training.loop:Examples",
        "Loop": "tersor.training.loop:Loop",
        "Position": "tersor.training.learning_rates:Position",
        "Progress": "tersor.training.recipe_trainer:Progress",
        "Recipe": "tersor.training.recipe:Recipe",
        "RecipeTrainer": "tersor.training.recipe_trainer:RecipeTrainer",
        "Schedule": "tersor.training.compressor:Schedule",
        "SharedWeights": "tersor.training.codebooks:SharedWeights",
        "TrainedAssignments": "tersor.training.assignments:TrainedAssignments",
        "TrainingState": "tersor.training.resume:TrainingState",
        "distillation_loss": "tersor.training.distillation:distillation_loss",
    },
)


def __dir__() -> list[str]:
    return list(__all__)
