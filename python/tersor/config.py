"""How each layer is to be compressed: plain data, to and from JSON."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

from tersor._renamed import renamed_fields

Kind = Literal["shared_fp32", "shared_fp16", "plain_fp32", "plain_fp16"]
Method = Literal["kmeans", "uniform", "ecsq"]
Algorithm = Literal["exact", "lloyd"]
Precision = Literal["highest", "high", "medium", "low"]

KINDS: tuple[Kind, ...] = get_args(Kind)
METHODS: tuple[Method, ...] = get_args(Method)
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@renamed_fields(values="codebook_size", mode="algorithm")
@dataclass(frozen=True)
class LayerConfig:
    """Settings of one layer.

    Attributes:
        codebook_size: the most non-zero codebook entries, 1 to 255. None = a weight of at most 255
            distinct non-zero values keeps exactly these; others get 15 entries in Linear and 255 in
            Conv layers.
        kind: ``shared_fp32`` or ``shared_fp16`` (a codebook), ``plain_fp32`` or ``plain_fp16``
            (pruned, not quantized).
        density: share of weights kept, the largest ones, 0 to 1; None = all that are not zero.
        threshold: instead of a density: weights are kept that are larger than so many standard
            deviations of their layer.
        index_bits: width of a gap, 2 to 8; None = what costs the fewest bytes.
        flat: gaps over the whole tensor, or by rows; None = what costs the fewest bytes.
        method: that chooses the codebook: ``kmeans``, ``uniform`` or ``ecsq``
            (:mod:`tersor.quantizers`).
        algorithm: of ``kmeans``: ``exact`` or ``lloyd``.
        bits: of ``ecsq``: entropy of a code; None = what a codebook of ``codebook_size`` entries
            takes when they all occur alike, less one bit.
        penalty: of ``ecsq``, instead of ``bits``: the Lagrange multiplier, mean error for one bit.
        prune: of ``ecsq``: zero is one of the codebook entries, so that density and codes are
            chosen as one problem; an entropy is then that of a code for each weight, pruned or not.
            Where errors are compensated, ``bits`` stand for the penalty that gives them without.
        precision: class of arithmetic: ``highest``, ``high``, ``medium`` or ``low``.
    """

    codebook_size: int | None = None
    kind: Kind = "shared_fp32"
    density: float | None = None
    threshold: float | None = None
    index_bits: int | None = None
    flat: bool | None = None
    method: Method = "kmeans"
    algorithm: Algorithm = "exact"
    bits: float | None = None
    penalty: float | None = None
    prune: bool = False
    precision: Precision = "high"

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
            raise ValueError(f"only ecsq prunes while it quantizes, not {self.method}")
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

    def to_json(self) -> dict[str, Any]:
        """The settings that differ from their defaults, as JSON has them."""
        return {f.name: getattr(self, f.name) for f in _changed(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> LayerConfig:
        """The settings that :meth:`to_json` gave.

        Raises:
            ValueError: a name or a value is wrong.
        """
        return cls(**_known(cls, content))


Overrides = Mapping[str, LayerConfig | None] | Iterable[tuple[str, LayerConfig | None]]


@renamed_fields(together="joint_codebook")
@dataclass(frozen=True)
class Config:
    """Settings of a model: hashable, comparable, to and from JSON.

    Attributes:
        linear: for matrices.
        conv: for filter banks.
        biases: for the biases of the compressed layers, whose files then hold codes for them too
            (``codebook_size`` and ``algorithm`` count); None leaves them as they are.
        overrides: settings by name pattern (as :mod:`fnmatch`) of a layer or its weight, given as a
            mapping and kept as pairs; the first match wins; None leaves the layer dense.
        joint_codebook: what chooses one codebook for all layers, as one problem: ``method``,
            ``codebook_size`` and what belongs to them; None = each layer's own settings.
        density: share of the weights kept over all layers together, the largest ones, of those that
            have neither a density nor a threshold of their own.
        target_bytes: the most bytes of the saved file; density, codebook and code of each layer are
            then chosen (:mod:`tersor.search`), within what its settings allow; or
        target_ratio: the same as a ratio, the model's bytes by those of the file; or
        max_drop: how much less than now the ``evaluate`` of :func:`tersor.compress_` may give, for
            the smallest file.
    """

    linear: LayerConfig = field(default_factory=LayerConfig)
    conv: LayerConfig = field(default_factory=LayerConfig)
    biases: LayerConfig | None = None
    overrides: Overrides = ()
    joint_codebook: LayerConfig | None = None
    density: float | None = None
    target_bytes: int | None = None
    target_ratio: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        given = self.overrides
        pairs = given.items() if isinstance(given, Mapping) else given
        object.__setattr__(self, "overrides", tuple((str(name), own) for name, own in pairs))
        for name, own in self.named_overrides:
            if own is not None and not isinstance(own, LayerConfig):
                raise ValueError(f"overrides['{name}'] must be a LayerConfig or None, not {own!r}")
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
        if self.joint_codebook is not None and self.searches:
            raise ValueError("joint_codebook cannot be combined with a target")

    @property
    def named_overrides(self) -> tuple[tuple[str, LayerConfig | None], ...]:
        """The overrides as pairs of pattern and settings."""
        return tuple(self.overrides)  # type: ignore[arg-type]

    @property
    def searches(self) -> bool:
        """Whether a size or an accuracy is given, from which settings are to be chosen."""
        return (self.target_bytes, self.target_ratio, self.max_drop) != (None, None, None)

    def for_layer(self, name: str, dimensions: int) -> LayerConfig | None:
        """The settings of a layer whose weight has so many dimensions; None = leave it dense.

        A pattern matches the name of the layer (``fc``) or of its weight (``fc.weight``).
        """
        for pattern, settings in self.named_overrides:
            if fnmatchcase(name, pattern) or fnmatchcase(f"{name}.weight", pattern):
                return settings
        return self.linear if dimensions <= 2 else self.conv

    def to_json(self) -> dict[str, Any]:
        """The settings that differ from their defaults, as JSON has them."""
        content: dict[str, Any] = {}
        for changed in _changed(self):
            value = getattr(self, changed.name)
            if changed.name == "overrides":
                content[changed.name] = {
                    name: own and own.to_json() for name, own in self.named_overrides
                }
            else:
                content[changed.name] = value.to_json() if isinstance(value, LayerConfig) else value
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Config:
        """The settings that :meth:`to_json` gave.

        Raises:
            ValueError: a name or a value is wrong.
        """
        given = _known(cls, content)
        for name in ("linear", "conv", "biases", "joint_codebook"):
            if given.get(name) is not None:
                given[name] = LayerConfig.from_json(given[name])
        overrides = given.pop("overrides", {})
        if not isinstance(overrides, Mapping):
            raise ValueError("overrides must be an object of patterns")
        return cls(
            overrides={
                name: None if own is None else LayerConfig.from_json(own)
                for name, own in overrides.items()
            },
            **given,
        )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Config:
        """The settings of a JSON file.

        Raises:
            OSError: it cannot be read.
            ValueError: it is not JSON, or a name or a value is wrong; the message has the path.
        """
        try:
            content = json.loads(Path(path).read_bytes())
            if not isinstance(content, dict):
                raise ValueError("not an object")
            return cls.from_json(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: {error}") from None

    # ---- Presets, measured in docs/methods.md

    @classmethod
    def lossless_codes(cls) -> Config:
        """For networks whose weights take few values already: these are kept exactly.

        Weights of more than 255 distinct values are quantized to 255.
        """
        layer = LayerConfig(codebook_size=255)
        return cls(linear=layer, conv=layer)

    @classmethod
    def balanced(cls) -> Config:
        """Small files at hardly any loss without calibration: nothing pruned, 6 bits a weight."""
        layer = LayerConfig(codebook_size=127, method="uniform")
        return cls(linear=layer, conv=layer)

    @classmethod
    def small(cls, ratio: float) -> Config:
        """Pruned and quantized for a file ``ratio`` times smaller than the model's tensors.

        Give calibration inputs (``data``) to keep the accuracy.
        """
        return cls(target_ratio=ratio)


def _changed(settings: LayerConfig | Config) -> list[dataclasses.Field[Any]]:
    """The fields that differ from their defaults."""
    default = type(settings)()
    return [
        f
        for f in dataclasses.fields(settings)
        if getattr(settings, f.name) != getattr(default, f.name)
    ]


def _known(kind: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """The content, if all its names are fields.

    Raises:
        ValueError: it is no object, or a name is unknown.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"a {kind.__name__} must be an object, not {content!r}")
    fields = [f.name for f in dataclasses.fields(kind)]
    if unknown := sorted(content.keys() - set(fields)):
        raise ValueError(f"{kind.__name__} has no {unknown[0]!r}; it has {', '.join(fields)}")
    return dict(content)
