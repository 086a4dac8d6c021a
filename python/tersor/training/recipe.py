"""Recipes: how a network is pruned and quantized while it is retrained."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tersor.quantizers.equal_error import QUANTIZERS
from tersor.training.learning_rates import CosineRate


@dataclass(frozen=True)
class Recipe:
    """How a network is pruned and quantized while it is retrained.

    Attributes:
        density: share of the weights kept, over all layers; 0 to 1, 0 excluded.
        prune_epochs: pruning with retraining.
        codebook_epochs: fine-tuning of codebooks, after quantization.
        assignment_epochs: before that, training of the codebook entry that each weight takes.
        prune_rate, assignment_rate, codebook_rate: learning rates. Without a ``codebook_rate``,
            ``prune_rate`` spans pruning and fine-tuning as one training.
        initial_density: where the gradual descent starts.
        descent: share of the pruning epochs in which the density falls; the rest retrains.
        quantizer: one of :data:`tersor.quantizers.equal_error.QUANTIZERS`, with a joint codebook
            over layers; None = k-means for each layer by itself.
        codebook_size: non-zero entries, 1 to 255; of the other quantizers, those of
            Hessian-weighted k-means, whose weighted error is their bound.
        bias_codebook_size: the same for each bias; None leaves biases as they are.
        bits: entropy of a code, at most, for the quantizer ``uniform``, whatever its error.
        batch_size: examples of a training step.
        bfloat16: products in bfloat16 while training.
        temperature, teacher_weight: of the distillation from the teacher.
        redraw: epochs that one augmented copy of the data serves.
        start: name of the network that is pruned further; None = the dense one.
        teacher: name of the dense network that teaches; None = the one that is compressed.

    Raises:
        ValueError: a number is out of range, or settings contradict each other.
    """

    density: float
    prune_epochs: int
    codebook_epochs: int
    prune_rate: CosineRate
    assignment_epochs: int = 0
    assignment_rate: CosineRate | None = None
    codebook_rate: CosineRate | None = None
    initial_density: float = 1.0
    descent: float = 0.75
    quantizer: str | None = None
    codebook_size: int = 15
    bias_codebook_size: int | None = None
    bits: float | None = None
    batch_size: int = 256
    bfloat16: bool = False
    temperature: float = 3.0
    teacher_weight: float = 0.7
    redraw: int = 1
    start: str | None = None
    teacher: str | None = None

    def pruning(self) -> Recipe:
        """The recipe as far as pruning goes by it: quantizers can share one pruned network."""
        return replace(
            self,
            assignment_epochs=0,
            assignment_rate=None,
            quantizer=None,
            codebook_size=15,
            bias_codebook_size=None,
            bits=None,
        )

    def __post_init__(self) -> None:
        for name in ("density", "initial_density"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be above 0, 1 at most, not {getattr(self, name)}")
        if self.density > self.initial_density:
            raise ValueError(
                f"density is {self.density}, above initial_density, {self.initial_density}"
            )
        for name in ("prune_epochs", "codebook_epochs", "assignment_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        for name in ("batch_size", "redraw"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")
        for name in ("descent", "teacher_weight"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be 0 to 1, not {getattr(self, name)}")
        for name in ("codebook_size", "bias_codebook_size"):
            size = getattr(self, name)
            if size is not None and not 1 <= size <= 255:
                raise ValueError(f"{name} must be 1 to 255, not {size}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, not {self.temperature}")
        if self.quantizer is not None and self.quantizer not in QUANTIZERS:
            raise ValueError(f"quantizer {self.quantizer!r} is none of {', '.join(QUANTIZERS)}")
        if self.bits is not None and self.quantizer != "uniform":
            raise ValueError(f"bits are of the quantizer 'uniform', not of {self.quantizer!r}")
        if self.bits is not None and not self.bits > 0:
            raise ValueError(f"bits must be above 0, not {self.bits}")
        if self.assignment_epochs and self.assignment_rate is None:
            raise ValueError("assignment_epochs need an assignment_rate")
