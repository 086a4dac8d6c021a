"""How each layer is to be compressed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from tersor._renamed import renamed_fields

KINDS = ("shared_fp32", "shared_fp16", "plain_fp32", "plain_fp16")
METHODS = ("kmeans", "uniform", "ecsq")
ALGORITHMS = ("exact", "lloyd")
PRECISIONS = ("highest", "high", "medium", "low")


@renamed_fields(values="codebook_size", mode="algorithm")
@dataclass(frozen=True)
class LayerConfig:
    """Settings of one layer.

    Attributes:
        values: shared values beside zero, 1 to 255; None = 15 for Linear and 255 for Conv layers.
        kind: ``shared_fp32`` or ``shared_fp16`` (a codebook), ``plain_fp32`` or ``plain_fp16``
            (pruned, not shared).
        density: share of weights kept, the largest ones, 0 to 1; None = the zeros a weight has.
        threshold: instead of a density: weights are kept that are larger than so many standard
            deviations of their layer.
        index_bits: width of a gap, 2 to 8; None = what costs the fewest bytes.
        flat: gaps over the whole tensor, or by rows; None = what costs the fewest bytes.
        method: that chooses the shared values: ``kmeans``, ``uniform`` or ``ecsq``
            (:mod:`tersor.quantizers.base`).
        mode: of ``kmeans``: ``exact`` or ``lloyd``.
        bits: of ``ecsq``: entropy of a code; None = what ``values`` shared values take when they
            all occur alike, less one bit.
        penalty: of ``ecsq``, instead of ``bits``: the mean error that a bit is worth.
        prune: of ``ecsq``: zero is one of the values, so that density and codes are settled
            together; an entropy is then that of a code for each weight, pruned or not. Where
            errors are compensated, ``bits`` stand for the penalty that would give them without.
        precision: class of arithmetic: ``highest``, ``high``, ``medium`` or ``low``.
    """

    codebook_size: int | None = None
    kind: str = "shared_fp32"
    density: float | None = None
    threshold: float | None = None
    index_bits: int | None = None
    flat: bool | None = None
    method: str = "kmeans"
    algorithm: str = "exact"
    bits: float | None = None
    penalty: float | None = None
    prune: bool = False
    precision: str = "high"

    def __post_init__(self) -> None:
        if self.codebook_size is not None and not 1 <= self.codebook_size <= 255:
            raise ValueError(f"codebook_size must be 1 to 255, not {self.codebook_size}")
        if self.kind not in KINDS:
            raise ValueError(f"kind '{self.kind}' is none of {', '.join(KINDS)}")
        if self.method not in METHODS:
            raise ValueError(f"method '{self.method}' is none of {', '.join(METHODS)}")
        if self.bits is not None and not (self.method == "ecsq" and 0.0 <= self.bits <= 8.0):
            raise ValueError(f"bits are those of ecsq, 0 to 8, not {self.bits} of {self.method}")
        if self.penalty is not None and not (self.method == "ecsq" and self.penalty >= 0.0):
            raise ValueError(
                f"a penalty is that of ecsq, 0 or more, not {self.penalty} of {self.method}"
            )
        if self.penalty is not None and self.bits is not None:
            raise ValueError("give either bits or a penalty")
        if self.prune and self.method != "ecsq":
            raise ValueError(f"only ecsq prunes while it shares, not {self.method}")
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm '{self.algorithm}' is none of {', '.join(ALGORITHMS)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision '{self.precision}' is none of {', '.join(PRECISIONS)}")
        if self.density is not None and not 0.0 <= self.density <= 1.0:
            raise ValueError(f"density must be 0 to 1, not {self.density}")
        if self.threshold is not None and not self.threshold >= 0.0:
            raise ValueError(f"threshold cannot be negative, not {self.threshold}")
        if self.threshold is not None and self.density is not None:
            raise ValueError("give either density or threshold")
        if self.index_bits is not None and not 2 <= self.index_bits <= 8:
            raise ValueError(f"index_bits must be 2 to 8, not {self.index_bits}")


@renamed_fields(together="joint_codebook")
@dataclass(frozen=True)
class Config:
    """Settings of a model.

    Attributes:
        linear: for matrices.
        conv: for filter banks.
        biases: for the biases of the compressed layers, whose files then hold codes for them too
            (``values`` and ``mode`` count); None leaves them as they are.
        overrides: settings by name pattern (as :mod:`fnmatch`), the first match wins; None leaves
            the layer as it is.
        together: what chooses one set of shared values for all layers, as one problem: ``method``,
            ``values`` and what belongs to them; None = each layer's own settings.
        density: share of the weights kept over all layers together, the largest ones, of those that
            have neither a density nor a threshold of their own.
        target_bytes: the most bytes of the saved file; density, values and code of each layer are
            then chosen (:mod:`tersor.search.rate_distortion`), within what its settings allow; or
        target_ratio: the same as a ratio, the model's bytes by those of the file; or
        max_drop: how much less than now ``evaluate`` may give, for the smallest file.
        evaluate: of a model: its accuracy, or whatever is better the higher it is.
        calibration: inputs of the model, batch by batch, some 128 in all (1,000 for a target) and
            without labels: layers are pruned and shared one after another, and errors compensated
            (:mod:`tersor.calibration.compensation`). With a target the rate of a code counts too.
    """

    linear: LayerConfig = field(default_factory=LayerConfig)
    conv: LayerConfig = field(default_factory=LayerConfig)
    biases: LayerConfig | None = None
    overrides: Mapping[str, LayerConfig | None] = field(default_factory=dict)
    joint_codebook: LayerConfig | None = None
    density: float | None = None
    target_bytes: int | None = None
    target_ratio: float | None = None
    max_drop: float | None = None
    evaluate: Callable[[Any], float] | None = None
    calibration: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        if self.density is not None and not 0.0 <= self.density <= 1.0:
            raise ValueError(f"density must be 0 to 1, not {self.density}")
        targets = (self.target_bytes, self.target_ratio, self.max_drop)
        if sum(target is not None for target in targets) > 1:
            raise ValueError("give one of target_bytes, target_ratio and max_drop")
        if self.target_bytes is not None and self.target_bytes <= 0:
            raise ValueError(f"target_bytes must be positive, not {self.target_bytes}")
        if self.target_ratio is not None and not self.target_ratio > 0:
            raise ValueError(f"target_ratio must be positive, not {self.target_ratio}")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise ValueError(f"max_drop cannot be negative, not {self.max_drop}")
        if (self.max_drop is None) != (self.evaluate is None):
            raise ValueError("max_drop and evaluate belong together")
        if self.joint_codebook is not None and (self.searches or self.calibration is not None):
            raise ValueError("joint_codebook cannot be combined with a target or calibration")

    @property
    def searches(self) -> bool:
        """Whether a size or an accuracy is given, from which settings are to be chosen."""
        return (self.target_bytes, self.target_ratio, self.max_drop) != (None, None, None)

    def for_layer(self, name: str, dimensions: int) -> LayerConfig | None:
        """The settings of a layer whose weight has so many dimensions; None = leave it alone."""
        for pattern, settings in self.overrides.items():
            if fnmatchcase(name, pattern):
                return settings
        return self.linear if dimensions <= 2 else self.conv
