"""A network through the phases of a recipe: prune, quantize, train assignments and codebooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tersor.calibration.sensitivity import hessian_diagonal
from tersor.config import Config, LayerConfig
from tersor.pipeline.compress import estimate
from tersor.pruning.schedules import CubicSchedule
from tersor.quantizers.base import Quantized
from tersor.quantizers.equal_error import quantize_at_equal_error, quantize_uniform_within
from tersor.training.compressor import Compressor, Scores, magnitudes
from tersor.training.cuda_graph import optimizer_rate
from tersor.training.distillation import distillation_loss, teacher_scores
from tersor.training.learning_rates import CosineRate, Position
from tersor.training.loop import EpochResult, Examples, Forward, Loop, in_precision
from tersor.training.recipe import Recipe
from tersor.training.resume import TrainingState


def encoded_bytes(model: nn.Module, codebook_size: int) -> int:
    """What a model's tensors would take, really encoded, with codebooks of a size, 1 to 255."""
    layer = LayerConfig(codebook_size=codebook_size, kind="shared_fp16")
    return estimate(model, Config(linear=layer, conv=layer)).compressed_bytes


@dataclass(frozen=True)
class Progress(EpochResult):
    """Where a compression stands after an epoch of a phase.

    Attributes:
        phase: ``pruning``, ``assignments`` or ``codebooks``.
        epochs: how many the phase has.
        density: share of the weights that are not zero.
        nbytes: of the model as it would be encoded now.
    """

    phase: str
    epochs: int
    density: float
    nbytes: int

    def __str__(self) -> str:
        return (
            f"{self.phase}, epoch {self.epoch}/{self.epochs}: {super().__str__()}, "
            f"density {100 * self.density:.2f} %, {self.nbytes:,} bytes"
        )


class RecipeTrainer(ABC):
    """A network on its way from dense to pruned and quantized, beside the dense one that teaches.

    The phases of a recipe around a :class:`Compressor`, each with an optimizer of its own. A
    subclass says what an epoch trains on (:meth:`draw`), and overrides what it does otherwise.
    Call :meth:`prune`, :meth:`quantize` and :meth:`train_quantized`, or :meth:`run` for all three.

    Args:
        model: on the device that trains; changed in place.
        teacher: the dense network, on the same device; goes into evaluation mode.
        recipe: see :class:`Recipe`.
        sample: batches of inputs, as the model reads them, for the Hessian's diagonal of the
            quantizers that use it.
        state: a file to resume from; each phase keeps one beside it. None = nothing is kept.
        progress: called after each epoch.
        scores: see :class:`Compressor`.

    Attributes:
        compressor: what prunes and shares.
        weights: its weights, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        recipe: Recipe,
        *,
        sample: Iterable[torch.Tensor] = (),
        state: Path | None = None,
        progress: Callable[[Progress], None] | None = None,
        scores: Scores = magnitudes,
    ) -> None:
        self.model, self.recipe = model, recipe
        self.compressor = Compressor(model, scores=scores)
        self.weights = self.compressor.weights
        self.sample, self.state, self.progress = sample, state, progress
        self.device = next(model.parameters()).device
        self.forward: Forward = in_precision(model, recipe.bfloat16)
        self.teacher: Forward = in_precision(teacher.eval(), recipe.bfloat16)

    # ---- What a subclass says

    @abstractmethod
    def draw(self, epoch: int) -> Examples:
        """What an epoch trains on; the same whenever it is asked for the same epoch.

        Pruning has the first epochs, codebooks the next ones, assignments the last. The targets
        are what :meth:`teach` gives for the inputs.
        """

    def to_input(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the model reads of the examples' inputs."""
        return inputs

    def weight_optimizer(self, rate: CosineRate) -> torch.optim.Optimizer:
        """The optimizer of all parameters, that prunes and trains assignments."""
        return self.adam(self.model.parameters(), rate)

    def prunes_at(self, step: int, end: int) -> bool:
        """Whether masks are chosen anew after a step of pruning; ``end``: the descent's last."""
        return step == end or (step < end and step % 16 == 0)

    def finish_pruning(self) -> None:  # noqa: B027 (a hook, empty by default)
        """Called at the end of :meth:`prune`."""

    # ---- What it has from here

    def adam(self, parameters: Iterable[nn.Parameter], rate: CosineRate) -> torch.optim.Adam:
        """Adam, which a replayed step can run."""
        arguments = optimizer_rate(rate.peak, self.device)
        return torch.optim.Adam(parameters, **arguments, capturable=self.device.type == "cuda")

    def teach(self, inputs: torch.Tensor) -> torch.Tensor:
        """The teacher's scores of examples' inputs, ``[n, classes]``."""
        return teacher_scores(lambda x: self.teacher(self.to_input(x)), inputs)

    def run(self) -> nn.Module:
        """All phases; the weights come back pruned and quantized, as plain parameters."""
        self.prune()
        self.train_quantized(self.quantize())
        return self.model

    def prune(self) -> None:
        """Gradual pruning while retraining, in place."""
        recipe = self.recipe
        self.compressor.masks.set({name: w != 0 for name, w in self.weights.items()})

        def after_step(at: Position) -> None:
            end = int(recipe.descent * recipe.prune_epochs * at.steps)
            if self.prunes_at(at.done, end):
                schedule = CubicSchedule(recipe.density, end, initial=recipe.initial_density)
                self.compressor.prune(schedule.density(at.done))

        rate, end = recipe.prune_rate, recipe.prune_epochs
        spanned = end + (recipe.codebook_epochs if recipe.codebook_rate is None else 0)
        optimizer = self.weight_optimizer(rate)
        self._train("pruning", optimizer, rate, spanned, range(end), 0, after_step)
        self.finish_pruning()

    def quantize(self) -> dict[str, Quantized]:
        """Codes and codebooks of the pruned weights by the recipe's quantizer; changes nothing."""
        recipe = self.recipe
        if recipe.quantizer is None:
            return self.compressor.cluster(recipe.codebook_size)
        weights = {name: w.detach().cpu().numpy() for name, w in self.weights.items()}
        diagonal = hessian_diagonal(self.model, self.sample)
        importance = {name: diagonal[name].cpu().numpy() for name in weights}
        if recipe.bits is not None:
            return quantize_uniform_within(weights, importance, recipe.bits)
        return quantize_at_equal_error(recipe.quantizer, weights, importance, recipe.codebook_size)

    def train_quantized(self, quantized: dict[str, Quantized]) -> None:
        """Trains assignments, if the recipe says so, and then codebooks, in place."""
        recipe, rate, end = self.recipe, self.recipe.assignment_rate, self.recipe.assignment_epochs
        if end and rate is not None:
            self.compressor.assign(quantized)
            first_draw = recipe.prune_epochs + recipe.codebook_epochs
            optimizer = self.weight_optimizer(rate)
            self._train("assignments", optimizer, rate, end, range(end), first_draw)
            quantized = self.compressor.assigned()
        given: dict[str, int | Quantized] = {**quantized}
        if recipe.bias_codebook_size is not None:
            biases = [name for name, _ in self.model.named_parameters() if name.endswith("bias")]
            given |= dict.fromkeys(biases, recipe.bias_codebook_size)
        shared = self.compressor.share(given)
        others = [p for name, p in self.model.named_parameters() if name not in shared.parameters]
        rate, first = recipe.codebook_rate, 0
        if rate is None:  # goes on with that of pruning
            rate, first = recipe.prune_rate, recipe.prune_epochs
        end = first + recipe.codebook_epochs
        optimizer = self.adam([*shared.codebooks.values(), *others], rate)
        first_draw = recipe.prune_epochs - first
        self._train("codebooks", optimizer, rate, end, range(first, end), first_draw)

    def _loss(
        self, scores: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor | None
    ) -> torch.Tensor:
        if targets is None:
            raise ValueError("draw() gave no targets: take them from teach(inputs)")
        of = self.recipe
        return distillation_loss(scores, targets, labels, of.temperature, of.teacher_weight)

    def _train(
        self,
        phase: str,
        optimizer: torch.optim.Optimizer,
        rate: CosineRate,
        spanned: int,
        epochs: range,
        first_draw: int,
        after_step: Callable[[Position], None] | None = None,
    ) -> None:
        """Trains for what is left of ``epochs``, of the ``spanned`` ones of the rate.

        The first of those has the number ``first_draw`` for :meth:`draw`.
        """
        path, settings, codebook_size = self.state, self.recipe, 255
        if phase == "pruning":
            settings, codebook_size = self.recipe.pruning(), self.recipe.codebook_size
        elif path is not None:
            path = path.with_suffix(f".{phase}.pt")
        model, compressor = self.model, self.compressor
        state = TrainingState(
            path, repr(settings), model=model, optimizer=optimizer, compressor=compressor
        )
        loop = Loop(
            model,
            optimizer,
            batch_size=self.recipe.batch_size,
            epochs=spanned,
            rate=rate,
            loss=self._loss,
            forward=self.forward,
            to_input=self.to_input,
        )
        compressor.attach(optimizer)
        done = state.load(self.device)
        left = epochs[done:]
        for result in loop.run(lambda epoch: self.draw(first_draw + epoch), left, after_step):
            done += 1
            if self.progress is not None:
                now = (phase, len(epochs), compressor.density, encoded_bytes(model, codebook_size))
                self.progress(Progress(done, result.loss, result.accuracy, *now))
            state.save(done)
        compressor.detach()

    def density(self) -> float:
        """Share of the weights that are not zero."""
        return self.compressor.density
