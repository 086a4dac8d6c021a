"""How each layer is to be compressed: plain data, to and from JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args

from tersor._names import matches, near
from tersor._renamed import moved_fields, renamed_fields, renamed_names

Kind = Literal["shared_fp32", "shared_fp16", "plain_fp32", "plain_fp16"]
Method = Literal["kmeans", "uniform", "integer", "ecsq"]
Algorithm = Literal["exact", "lloyd"]
Entropy = Literal["huffman", "smallest"]
Precision = Literal["highest", "high", "medium", "low"]
Execution = Literal["auto", "compressed", "dense"]

KINDS: tuple[Kind, ...] = get_args(Kind)
METHODS: tuple[Method, ...] = get_args(Method)
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
ENTROPIES: tuple[Entropy, ...] = get_args(Entropy)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
EXECUTIONS: tuple[Execution, ...] = get_args(Execution)
__getattr__ = renamed_names(__name__, MODES="ALGORITHMS")

_NAMED: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "method": METHODS,
    "algorithm": ALGORITHMS,
    "entropy": ENTROPIES,
    "precision": PRECISIONS,
    "execution": EXECUTIONS,
}


@renamed_fields(values="codebook_size", mode="algorithm")
@dataclass(frozen=True)
class LayerConfig:
    """Settings of one layer.

    Attributes:
        codebook_size: the most non-zero codebook entries, 1 to 255. None = a weight of at most 255
            distinct non-zero values keeps exactly these; others get 255 entries in Conv layers, and
            in Linear and Embedding layers 15, or 127 where ``method`` is None as well and more than
            half of the weights are kept.
        kind: ``shared_fp32`` or ``shared_fp16`` (a codebook), ``plain_fp32`` or ``plain_fp16``
            (pruned, not quantized).
        density: share of weights kept, the largest ones, 0 to 1; None = all that are not zero.
        threshold: instead of a density: weights are kept that are larger than this many standard
            deviations of their layer.
        index_bits: width of a gap, 2 to 8; None = what costs the fewest bytes.
        flat: gaps over the whole tensor, or by rows; None = what costs the fewest bytes.
        method: that chooses the codebook: ``kmeans``, ``uniform``, ``integer`` (multiples of one
            step, 2 of them or more) or ``ecsq`` (:mod:`tersor.quantizers`). None = ``integer`` for
            Linear and Embedding layers of which more than half is kept, if there is no
            ``codebook_size`` and no importance; ``kmeans`` for others.
        algorithm: of ``kmeans``: ``exact`` or ``lloyd``.
        bits: of ``ecsq``: entropy of a code; None = what a codebook of ``codebook_size`` entries
            takes when they all occur alike, less one bit.
        penalty: of ``ecsq``, instead of ``bits``: the Lagrange multiplier, mean error for one bit.
        prune: of ``ecsq``: zero is one of the codebook entries, so that density and codes are
            chosen as one problem; an entropy is then that of a code for each weight, pruned or not.
            Where errors are compensated, ``bits`` stand for the penalty that gives them without.
        entropy: coder of places and codes: ``huffman``, the fast one; or ``smallest``, an adaptive
            one for 5 to 15 % fewer bytes, at 5 to 20 million weights a second, where it saves any.
        precision: class of arithmetic: ``highest``, ``high``, ``medium`` or ``low``.
        execution: ``auto`` runs the layer from the compressed weight or from the weight decoded
            once, whichever is faster for the batch that it meets; ``compressed`` (least memory) and
            ``dense`` leave no choice.
    """

    codebook_size: int | None = None
    kind: Kind = "shared_fp32"
    density: float | None = None
    threshold: float | None = None
    index_bits: int | None = None
    flat: bool | None = None
    method: Method | None = None
    algorithm: Algorithm = "exact"
    bits: float | None = None
    penalty: float | None = None
    prune: bool = False
    entropy: Entropy = "huffman"
    precision: Precision = "high"
    execution: Execution = "auto"

    def __post_init__(self) -> None:
        _check_numbers(self, codebook_size=int, index_bits=int)
        _check_numbers(self, density=float, threshold=float, bits=float, penalty=float)
        for name, value in (("prune", self.prune), ("flat", self.flat or False)):
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false, not {value!r}")
        for name, names in _NAMED.items():
            value = getattr(self, name)
            if value not in names and not (name == "method" and value is None):
                raise ValueError(f"{name} {value!r} is none of {', '.join(names)}")
        if self.codebook_size is not None and not 1 <= self.codebook_size <= 255:
            raise ValueError(f"codebook_size must be 1 to 255, not {self.codebook_size}")
        if self.bits is not None and not (self.method == "ecsq" and 0.0 <= self.bits <= 8.0):
            raise ValueError(f"bits are those of ecsq, 0 to 8, not {self.bits} of {self.method}")
        if self.penalty is not None and not (self.method == "ecsq" and self.penalty >= 0.0):
            raise ValueError(
                f"a penalty is that of ecsq, 0 or more, not {self.penalty} of {self.method}"
            )
        if self.method == "integer" and self.codebook_size == 1:
            raise ValueError("integer needs a codebook_size of 2 or more: one for each sign")
        if self.penalty is not None and self.bits is not None:
            raise ValueError("give either bits or a penalty")
        if self.prune and self.method != "ecsq":
            raise ValueError(f"only ecsq prunes while it quantizes, not {self.method}")
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
@moved_fields(
    calibration="tersor.compress_(model, config, data=...)",
    evaluate="tersor.compress_(model, config, evaluate=...)",
)
@dataclass(frozen=True)
class Config:
    """Settings of a model: hashable, comparable, to and from JSON.

    Attributes:
        linear: for matrices.
        conv: for filter banks.
        embedding: for tables whose rows are looked up, and for what shares such a table, as the
            head of a language model does.
        biases: for the biases of the compressed layers, whose files then hold codes for them too
            (``codebook_size`` and ``algorithm`` count); None leaves them as they are.
        overrides: settings by name pattern (as :mod:`fnmatch`) of a layer or its weight, given as a
            mapping and kept as pairs; the first match wins; None leaves the layer dense.
        joint_codebook: what chooses one codebook for all layers but embeddings: ``method``,
            ``codebook_size`` and what belongs to them; None = each layer's own settings.
        fold_norms: fold each BatchNorm into the convolution or linear layer before it, in
            evaluation mode; an ``nn.Identity`` takes its place. Where ``torch.fx`` cannot trace the
            model, ``data`` shows which norm follows which layer, and that the model computes the
            same afterwards. Importance is then that of the folded weights.
        entropy: of all layers (see :class:`LayerConfig`); None = each layer's own.
        density: share of the weights kept over all layers together, the largest ones, of those that
            have neither a density nor a threshold of their own; embeddings are not pruned.
        target_bytes: the most bytes of the saved file; density, codebook and code of each layer are
            then chosen (:mod:`tersor.search`), within what its settings allow; or
        target_ratio: the same as a ratio, the model's bytes by those of the file; or
        max_drop: how much less than now the ``evaluate`` of :func:`tersor.compress_` may give, for
            the smallest file.
    """

    linear: LayerConfig = field(default_factory=LayerConfig)
    conv: LayerConfig = field(default_factory=LayerConfig)
    embedding: LayerConfig = field(default_factory=LayerConfig)
    biases: LayerConfig | None = None
    overrides: Overrides = ()
    joint_codebook: LayerConfig | None = None
    fold_norms: bool = False
    entropy: Entropy | None = None
    density: float | None = None
    target_bytes: int | None = None
    target_ratio: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        for name in ("linear", "conv", "embedding", "biases", "joint_codebook"):
            own = getattr(self, name)
            optional = own is None and name in ("biases", "joint_codebook")
            if not isinstance(own, LayerConfig) and not optional:
                raise ValueError(f"{name} must be a LayerConfig, not {own!r}")
        object.__setattr__(self, "overrides", _pairs(self.overrides))
        if not isinstance(self.fold_norms, bool):
            raise ValueError(f"fold_norms must be true or false, not {self.fold_norms!r}")
        if self.entropy not in (None, *ENTROPIES):
            raise ValueError(f"entropy {self.entropy!r} is none of {', '.join(ENTROPIES)}")
        _check_numbers(self, target_bytes=int)
        _check_numbers(self, density=float, target_ratio=float, max_drop=float)
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
        """Pairs of pattern and settings."""
        return tuple(self.overrides)  # type: ignore[arg-type]

    @property
    def searches(self) -> bool:
        """Whether a size or an accuracy is given, from which settings are to be chosen."""
        return (self.target_bytes, self.target_ratio, self.max_drop) != (None, None, None)

    def for_layer(
        self, name: str | Iterable[str], dimensions: int, default: str | None = None
    ) -> LayerConfig | None:
        """The settings of a layer whose weight has that many dimensions; None = leave it dense.

        A pattern matches the name of the layer (``fc``) or of its weight (``fc.weight``).

        Args:
            name: of the layer, or all its names.
            dimensions: of its weight.
            default: the field that counts where no pattern matches: ``linear``, ``conv`` or
                ``embedding``; None = ``linear`` for matrices, ``conv`` for others.
        """
        names = (name,) if isinstance(name, str) else tuple(name)
        own: LayerConfig = getattr(self, default or ("linear" if dimensions <= 2 else "conv"))
        found = (settings for pattern, settings in self.named_overrides if matches(pattern, names))
        chosen = next(found, own)
        if chosen is None or self.entropy is None:
            return chosen
        return dataclasses.replace(chosen, entropy=self.entropy)

    def names_layer(self, names: Iterable[str]) -> bool:
        """Whether the overrides name a layer, of which these are all names."""
        own = tuple(names)
        return any(matches(pattern, own) for pattern, _ in self.named_overrides)

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
        for name in ("linear", "conv", "embedding", "biases", "joint_codebook"):
            if given.get(name) is not None:
                given[name] = _layer_from_json(given[name], name)
        overrides = given.pop("overrides", {})
        if not isinstance(overrides, Mapping):
            raise ValueError("overrides must be an object of patterns")
        return cls(
            overrides={
                name: None if own is None else _layer_from_json(own, f"overrides['{name}']")
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
        return cls(linear=layer, conv=layer, embedding=layer)

    @classmethod
    def balanced(cls) -> Config:
        """Small files at hardly any loss without calibration: nothing pruned, 6 bits a weight."""
        layer = LayerConfig(codebook_size=127, method="integer")
        return cls(linear=layer, conv=layer, embedding=layer)

    @classmethod
    def small(cls, ratio: float) -> Config:
        """Pruned and quantized for a file ``ratio`` times smaller than the model's tensors.

        Give calibration inputs (``data``) to keep the accuracy.
        """
        return cls(target_ratio=ratio)


def _check_numbers(settings: Any, **kinds: type) -> None:
    """Refuses fields that are neither None nor a finite number of a kind, ``int`` or ``float``.

    Raises:
        ValueError: the message has the field.
    """
    for name, kind in kinds.items():
        value = getattr(settings, name)
        if value is None:
            continue
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if kind is int and not whole:
            raise ValueError(f"{name} must be a whole number, not {value!r}")
        if not (whole or isinstance(value, Real)) or isinstance(value, bool):
            raise ValueError(f"{name} must be a number, not {value!r}")
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, not {value}")
        # Numbers of numpy would not go into JSON.
        object.__setattr__(settings, name, kind(value) if not whole else int(value))


def _pairs(overrides: Any) -> tuple[tuple[str, LayerConfig | None], ...]:
    """Overrides, given as a mapping or as pairs, as pairs.

    Raises:
        ValueError: they are neither, or a pattern occurs twice.
    """
    try:
        items = overrides.items() if isinstance(overrides, Mapping) else overrides
        pairs = tuple((name, own) for name, own in items)
    except (TypeError, ValueError):
        raise ValueError(
            f"overrides must be a mapping from patterns to settings, not {overrides!r}"
        ) from None
    for name, own in pairs:
        if not isinstance(name, str):
            raise ValueError(f"overrides: a pattern must be a string, not {name!r}")
        if own is not None and not isinstance(own, LayerConfig):
            raise ValueError(f"overrides['{name}'] must be a LayerConfig or None, not {own!r}")
        if sum(name == other for other, _ in pairs) > 1:
            raise ValueError(f"overrides: '{name}' occurs twice, and the second one has no effect")
    return pairs


def _layer_from_json(content: Any, where: str) -> LayerConfig:
    """As :meth:`LayerConfig.from_json`; the message has the place."""
    try:
        return LayerConfig.from_json(content)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


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
    if unknown := [name for name in content if name not in fields]:
        raise ValueError(f"{kind.__name__} has no '{unknown[0]}'{near(str(unknown[0]), fields)}")
    return dict(content)
