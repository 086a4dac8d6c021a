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
from tersor.pruning.masks import Masks, density_masks
from tersor.pruning.schedules import CubicSchedule
from tersor.quantizers.base import Quantized
from tersor.quantizers.equal_error import quantize_at_equal_error, quantize_uniform_within
from tersor.quantizers.kmeans import quantize_kmeans
from tersor.training.assignments import TrainedAssignments
from tersor.training.codebooks import SharedWeights
from tersor.training.cuda_graph import optimizer_rate
from tersor.training.distillation import distillation_loss, teacher_scores
from tersor.training.learning_rates import CosineRate, Position
from tersor.training.loop import Examples, Forward, Loop, in_precision
from tersor.training.recipe import Recipe
from tersor.training.resume import Stateful, TrainingState


def encoded_bytes(model: nn.Module, codebook_size: int) -> int:
    """What a model's tensors would take, really encoded, with codebooks of a size, 1 to 255."""
    layer = LayerConfig(codebook_size=codebook_size, kind="shared_fp16")
    return estimate(model, Config(linear=layer, conv=layer)).compressed_bytes


@dataclass(frozen=True)
class Progress:
    """Where a compression stands after an epoch.

    Attributes:
        phase: ``pruning``, ``assignments`` or ``codebooks``.
        epoch, epochs: done, and how many the phase has.
        loss: mean over the epoch's examples.
        accuracy: in per cent, on training examples as they were drawn.
        density: share of the weights that are not zero.
        nbytes: of the model as it would be encoded now.
    """

    phase: str
    epoch: int
    epochs: int
    loss: float
    accuracy: float
    density: float
    nbytes: int

    def __str__(self) -> str:
        return (
            f"{self.phase}, epoch {self.epoch}/{self.epochs}: loss {self.loss:.4f}, "
            f"training accuracy {self.accuracy:.2f} %, density {100 * self.density:.2f} %, "
            f"{self.nbytes:,} bytes"
        )


class RecipeTrainer(ABC):
    """A network on its way from dense to pruned and quantized, beside the dense one that teaches.

    A subclass says what an epoch trains on (:meth:`draw`), and overrides what it does otherwise.
    Call :meth:`prune`, :meth:`quantize` and :meth:`train_quantized`, or :meth:`run` for all three.

    Args:
        model: on the device that trains; changed in place.
        teacher: the dense network, on the same device; goes into evaluation mode.
        recipe: see :class:`Recipe`.
        sample: batches of inputs, as the model reads them, for the Hessian's diagonal of the
            quantizers that use it.
        state: a file to resume from; each phase keeps one beside it. None = nothing is kept.
        progress: called after each epoch.

    Attributes:
        weights: the parameters that are pruned and quantized: all with two dimensions or more.
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
    ) -> None:
        self.model, self.recipe = model, recipe
        self.sample, self.state, self.progress = sample, state, progress
        self.device = next(model.parameters()).device
        self.forward: Forward = in_precision(model, recipe.bfloat16)
        self.teacher: Forward = in_precision(teacher.eval(), recipe.bfloat16)
        self.weights = {name: p for name, p in model.named_parameters() if p.dim() > 1}

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

    def scores(self, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        """Importance of each weight for pruning: its magnitude."""
        return {name: w.detach().abs() for name, w in self.weights.items()}

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
        masks = Masks(self.weights)
        masks.set({name: w != 0 for name, w in self.weights.items()})
        optimizer = self.weight_optimizer(recipe.prune_rate)
        handles = masks.attach(optimizer)

        def after_step(at: Position) -> None:
            end = int(recipe.descent * recipe.prune_epochs * at.steps)
            if self.prunes_at(at.done, end):
                schedule = CubicSchedule(recipe.density, end, initial=recipe.initial_density)
                masks.set(density_masks(self.scores(optimizer), schedule.density(at.done)))

        spanned = recipe.prune_epochs
        if recipe.codebook_rate is None:
            spanned += recipe.codebook_epochs
        self._train(
            "pruning",
            TrainingState(
                self.state,
                repr(recipe.pruning()),
                model=self.model,
                optimizer=optimizer,
                masks=masks,
            ),
            self._loop(optimizer, recipe.prune_rate, spanned),
            range(recipe.prune_epochs),
            after_step=after_step,
        )
        for handle in handles:
            handle.remove()
        self.finish_pruning()

    def quantize(self) -> dict[str, Quantized]:
        """Codes and codebooks of the pruned weights by the recipe's quantizer; changes nothing."""
        recipe = self.recipe
        weights = {name: w.detach().cpu().numpy() for name, w in self.weights.items()}
        if recipe.quantizer is None:
            return quantize_kmeans(weights, recipe.codebook_size)
        diagonal = hessian_diagonal(self.model, self.sample)
        importance = {name: diagonal[name].cpu().numpy() for name in weights}
        if recipe.bits is not None:
            return quantize_uniform_within(weights, importance, recipe.bits)
        return quantize_at_equal_error(recipe.quantizer, weights, importance, recipe.codebook_size)

    def train_quantized(self, quantized: dict[str, Quantized]) -> None:
        """Trains assignments, if the recipe says so, and then codebooks, in place."""
        if self.recipe.assignment_epochs:
            quantized = self._train_assignments(quantized)
        self._train_codebooks(quantized)

    def _train_assignments(self, quantized: dict[str, Quantized]) -> dict[str, Quantized]:
        recipe = self.recipe
        assert recipe.assignment_rate is not None  # the recipe checks
        trained = TrainedAssignments(self.weights, quantized)
        optimizer = self.weight_optimizer(recipe.assignment_rate)
        trained.attach(optimizer)
        self._train(
            "assignments",
            self._beside("assignments", optimizer=optimizer, trained=trained),
            self._loop(optimizer, recipe.assignment_rate, recipe.assignment_epochs),
            range(recipe.assignment_epochs),
            first_draw=recipe.prune_epochs + recipe.codebook_epochs,
        )
        return trained.shared()

    def _train_codebooks(self, quantized: dict[str, Quantized]) -> None:
        recipe = self.recipe
        given: dict[str, int | Quantized] = dict(quantized)
        parameters = dict(self.weights)
        others = {n: p for n, p in self.model.named_parameters() if n not in self.weights}
        if recipe.bias_codebook_size is not None:
            biases = {name: p for name, p in others.items() if name.endswith("bias")}
            given |= dict.fromkeys(biases, recipe.bias_codebook_size)
            parameters |= biases
            others = {name: p for name, p in others.items() if name not in biases}
        shared = SharedWeights(parameters, given)
        spanned = recipe.codebook_epochs
        first = 0
        rate = recipe.codebook_rate
        if rate is None:
            rate, first = recipe.prune_rate, recipe.prune_epochs
            spanned += recipe.prune_epochs
        optimizer = self.adam([*shared.codebooks.values(), *others.values()], rate)
        shared.attach(optimizer)
        self._train(
            "codebooks",
            self._beside("codebooks", optimizer=optimizer, shared=shared),
            self._loop(optimizer, rate, spanned),
            range(first, first + recipe.codebook_epochs),
            first_draw=recipe.prune_epochs - first,
        )

    def _beside(self, phase: str, **parts: Stateful) -> TrainingState:
        path = None if self.state is None else self.state.with_suffix(f".{phase}.pt")
        return TrainingState(path, repr(self.recipe), model=self.model, **parts)

    def _loop(self, optimizer: torch.optim.Optimizer, rate: CosineRate, epochs: int) -> Loop:
        recipe = self.recipe

        def loss(
            scores: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor | None
        ) -> torch.Tensor:
            if targets is None:
                raise ValueError("draw() gave no targets: take them from teach(inputs)")
            return distillation_loss(
                scores, targets, labels, recipe.temperature, recipe.teacher_weight
            )

        return Loop(
            self.model,
            optimizer,
            batch_size=recipe.batch_size,
            epochs=epochs,
            rate=rate,
            loss=loss,
            forward=self.forward,
            to_input=self.to_input,
        )

    def _train(
        self,
        phase: str,
        state: TrainingState,
        loop: Loop,
        epochs: range,
        first_draw: int = 0,
        after_step: Callable[[Position], None] | None = None,
    ) -> None:
        """Trains for what is left of a phase's epochs; ``first_draw``: of epoch 0, for ``draw``."""
        done = state.load(self.device)
        left = epochs[done:]
        codebook_size = self.recipe.codebook_size if phase == "pruning" else 255
        for result in loop.run(lambda epoch: self.draw(first_draw + epoch), left, after_step):
            done += 1
            if self.progress is not None:
                self.progress(
                    Progress(
                        phase,
                        done,
                        len(epochs),
                        result.loss,
                        result.accuracy,
                        self.density(),
                        encoded_bytes(self.model, codebook_size),
                    )
                )
            state.save(done)

    def density(self) -> float:
        """Share of the weights that are not zero."""
        kept = sum(int(w.detach().count_nonzero()) for w in self.weights.values())
        return kept / max(1, sum(w.numel() for w in self.weights.values()))
