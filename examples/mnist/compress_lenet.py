"""The recipe of the demo: prune gradually while retraining, then share values and fine-tune them.

A dense network teaches (distillation). Weights go by the score |w| * v^(1/4), v = Adam's second
moment, over all layers together. Nothing is chosen on the test set: the last state is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import tersor
from examples.mnist.dataset import augment, load_train, to_input
from examples.mnist.models import dense_model
from examples.sharing import share_by
from examples.training import Step, bytes_so_far, distillation_loss, find_device, rate_of, set_rate
from tersor.calibration.sensitivity import hessian_diagonal
from tersor.pipeline.compress import decompress_
from tersor.pruning.masks import Masks, density_masks
from tersor.pruning.neurons import remove_dead_neurons_, sort_neurons_
from tersor.pruning.schedules import CubicSchedule
from tersor.quantizers.base import Quantized
from tersor.quantizers.kmeans import quantize_kmeans
from tersor.training.codebooks import SharedWeights

COMPRESSED = Path(__file__).parent / "compressed"


@dataclass(frozen=True)
class Recipe:
    """How a network is compressed.

    Attributes:
        prune_epochs: pruning with retraining; the last quarter of its steps leaves the masks alone.
        share_epochs: fine-tuning of shared values.
        density: share of the weights kept, over all layers.
        method: one of :data:`sharing.METHODS`, for all layers as one problem; None = k-means for
            each layer by itself.
        values: shared values beside zero; of the methods, those of Hessian-weighted k-means.
        bias_values: the same for each bias; None leaves biases as they are.
        initial_density: the gradual descent starts there.
        start: a compressed file, ``{}`` in place of the seed, to prune further; None = dense.
        redraw: epochs between new augmented copies of the images.
        bfloat16: products in bfloat16 while training, some twice as fast.
        teacher: the dense network that teaches; None = the one that is compressed.
        temperature, teacher_weight: of the distillation.
        plain: share of images left without augmentation.
    """

    prune_epochs: int
    share_epochs: int
    density: float
    method: str | None = None
    values: int = 15
    bias_values: int | None = None
    initial_density: float = 1.0
    start: str | None = None
    redraw: int = 1
    bfloat16: bool = False
    learning_rate: float = 2e-3
    batch: int = 256
    teacher: str | None = None
    temperature: float = 3.0
    teacher_weight: float = 0.7
    plain: float = 0.3


RECIPES = {
    "lenet-300-100": Recipe(prune_epochs=13, share_epochs=5, density=0.02),
    "lenet-5": Recipe(prune_epochs=3, share_epochs=2, density=0.015, initial_density=0.3),
}


@dataclass(frozen=True)
class Progress:
    """Where the training stands after an epoch.

    Attributes:
        accuracy: in per cent, on training images as they were augmented.
        density: share of the weights kept.
        nbytes: of weights, as they would be encoded now, and biases.
        shared: whether values are shared already.
    """

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    density: float
    nbytes: int
    shared: bool

    def __str__(self) -> str:
        stage = "fine-tuning shared values" if self.shared else "pruning"
        return (
            f"epoch {self.epoch}/{self.epochs}: loss {self.loss:.4f}, "
            f"training accuracy {self.accuracy:.2f} %, density {100 * self.density:.2f} %, "
            f"{self.nbytes:,} bytes, {stage}"
        )


def _input(images: torch.Tensor) -> torch.Tensor:
    """What the network reads, in the order of channels that torch convolves fastest."""
    return to_input(images).view(-1, 28, 28, 1).permute(0, 3, 1, 2)


def _scores(
    weights: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    return {
        name: w.detach().abs() * (optimizer.state[w]["exp_avg_sq"] ** 0.25 + 1e-12)
        for name, w in weights.items()
    }


class Training:
    """A network on its way from dense to pruned and shared, beside the dense one that teaches it.

    The learning rate falls as a cosine over both phases, after a short rise.

    Args:
        net: ``lenet-300-100`` or ``lenet-5``.
        recipe: see :class:`Recipe`.
        seed: of the order and augmentation of the images.
        progress: called after each epoch.
        data: images uint8 and labels, in place of the whole training set.
    """

    def __init__(
        self,
        net: str,
        recipe: Recipe,
        seed: int,
        progress: Callable[[Progress], None] | None,
        data: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        self.recipe = recipe
        self.seed = seed
        self.progress = progress
        self.device = find_device()
        images, labels = data or load_train()
        self.images, self.labels = images.to(self.device), labels.to(self.device)
        self.model = dense_model(net).to(self.device)
        self.teacher = dense_model(recipe.teacher or net).to(self.device)
        if recipe.start is not None:
            # A plain copy: the loaded model runs from its compressed form.
            loaded = tersor.load(COMPRESSED / recipe.start.format(seed), dense_model(net))
            assert isinstance(loaded, nn.Module)
            self.model.load_state_dict(decompress_(loaded).state_dict())
        parameters = dict(self.model.named_parameters())
        self.weights = {n: p for n, p in parameters.items() if n.endswith("weight")}
        self.biases = {n: p for n, p in parameters.items() if n.endswith("bias")}
        self.masks = Masks(self.weights)
        if recipe.start is not None:
            self.masks.set({name: w != 0 for name, w in self.weights.items()})
        self.steps_per_epoch = math.ceil(len(self.images) / recipe.batch)
        self.drawn: tuple[torch.Tensor, torch.Tensor] | None = None

    def _draw(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """A new copy of the images, most of them moved, and the teacher's scores of it."""
        moved = augment(self.images, generator)
        keep = torch.rand(len(moved), generator=generator) < self.recipe.plain
        keep = keep.to(self.device)
        moved[keep] = self.images[keep]
        with torch.no_grad():
            return moved, torch.cat([self._forward(self.teacher, x) for x in moved.split(1000)])

    def _forward(self, model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.recipe.bfloat16, cache_enabled=False
        ):
            scores: torch.Tensor = model(_input(images))
        return scores.float()

    def _epochs(
        self,
        first: int,
        count: int,
        optimizer: torch.optim.Optimizer,
        before_step: Callable[[], None] | None = None,
        after_step: Callable[[], None] | None = None,
        between: Callable[[int], None] | None = None,
    ) -> None:
        """Trains for some epochs.

        Args:
            before_step, after_step: part of a step, before and after the optimizer's.
            between: called after each step with its number.
        """
        recipe = self.recipe
        epochs = recipe.prune_epochs + recipe.share_epochs
        steps = epochs * self.steps_per_epoch
        step = first * self.steps_per_epoch
        total = torch.zeros((), device=self.device)
        right = torch.zeros((), dtype=torch.int64, device=self.device)

        def one(images: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor) -> None:
            scores = self._forward(self.model, images)
            loss = distillation_loss(
                scores, targets, labels, recipe.temperature, recipe.teacher_weight
            )
            self.model.zero_grad(set_to_none=True)
            loss.backward()
            if before_step is not None:
                before_step()
            optimizer.step()
            if after_step is not None:
                after_step()
            total.add_(loss.detach() * len(images))
            right.add_((scores.detach().argmax(1) == labels).sum())

        # The last batch of an epoch is smaller: it is a step of its own.
        whole, rest = Step(one), one
        for epoch in range(first, first + count):
            generator = torch.Generator().manual_seed(1000 * self.seed + epoch)
            if self.drawn is None or epoch % recipe.redraw == 0:
                self.drawn = self._draw(generator)
            moved, targets = self.drawn
            total.zero_()
            right.zero_()
            order = torch.randperm(len(moved), generator=generator).to(self.device)
            for index in order.split(recipe.batch):
                rate = recipe.learning_rate * min(1.0, (step + 1) / (0.05 * steps))
                set_rate(optimizer, rate * 0.5 * (1 + math.cos(math.pi * step / steps)))
                run = whole if len(index) == recipe.batch else rest
                run(moved[index], targets[index], self.labels[index])
                if between is not None:
                    between(step)
                step += 1
            if self.progress is not None:
                n = len(moved)
                mean, accuracy = float(total) / n, 100 * int(right) / n
                density, shared = self.masks.density(), before_step is not None
                nbytes = bytes_so_far(self.model, recipe.values)
                self.progress(Progress(epoch + 1, epochs, mean, accuracy, density, nbytes, shared))

    def _adam(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
        rate = rate_of(self.recipe.learning_rate, self.device)
        return torch.optim.Adam(parameters, **rate, capturable=self.device.type == "cuda")

    def prune(self) -> None:
        """Gradual pruning while retraining, then retraining alone; dead units are removed."""
        recipe = self.recipe
        optimizer = self._adam(self.model.parameters())
        handles = self.masks.attach(optimizer)
        end = int(0.75 * recipe.prune_epochs * self.steps_per_epoch)
        schedule = CubicSchedule(recipe.density, end, initial=recipe.initial_density)

        def between(step: int) -> None:
            if step % 16 == 15 and step <= end + 16:
                scores = _scores(self.weights, optimizer)
                self.masks.set(density_masks(scores, schedule.density(step)))

        self._epochs(0, recipe.prune_epochs, optimizer, between=between)
        for handle in handles:
            handle.remove()
        layers = self.model.hidden_pairs()
        for producer, consumer in reversed(layers):
            remove_dead_neurons_(producer, consumer)
        for producer, consumer in layers:
            remove_dead_neurons_(producer, consumer)
            sort_neurons_(producer, consumer)
        self.masks.set({name: w != 0 for name, w in self.weights.items()})

    def choose(self) -> dict[str, Quantized]:
        """Shared values by the recipe's method."""
        recipe = self.recipe
        weights = {name: w.detach().cpu().numpy() for name, w in self.weights.items()}
        if recipe.method is None:
            return quantize_kmeans(weights, recipe.values)
        diagonal = hessian_diagonal(self.model, to_input(self.images[:1000]).split(250))
        importance = {name: diagonal[name].cpu().numpy() for name in weights}
        return share_by(recipe.method, weights, importance, recipe.values)

    def share(self) -> None:
        """Shares the values of weights, and of biases if the recipe says so, and fine-tunes."""
        recipe = self.recipe
        chosen: dict[str, int | Quantized] = dict(self.choose())
        shared = dict(self.weights)
        free = list(self.biases.values())
        if recipe.bias_values is not None:
            shared.update(self.biases)
            chosen.update(dict.fromkeys(self.biases, recipe.bias_values))
            free = []
        values = SharedWeights(shared, chosen)
        optimizer = self._adam([*values.codebooks.values(), *free])
        self._epochs(
            recipe.prune_epochs,
            recipe.share_epochs,
            optimizer,
            values.gather_gradients,
            values.write,
        )


def compress_lenet(
    net: str,
    *,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    recipe: Recipe | None = None,
) -> nn.Module:
    """Compresses a dense checkpoint; the weights come back pruned and shared, as plain parameters.

    Args:
        net: ``lenet-300-100`` or ``lenet-5``.
        seed: of the order and augmentation of the images.
        progress: called after each epoch.
        recipe: another one than that of the demo.
    """
    training = Training(net, recipe or RECIPES[net], seed, progress)
    training.prune()
    training.share()
    return training.model.cpu().eval()
