"""What was done to each layer of a model, and why others stayed dense."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from tersor._names import joined
from tersor.io import container
from tersor.io.checkpoint import file_content, stored_bytes
from tersor.nn.base import Compressed
from tersor.nn.compression import reasons_of
from tersor.nn.layers import layers_of, nbytes, own_parameters
from tersor.nn.matrices import matrices_of
from tersor.nn.recomputed import dense_type_of
from tersor.nn.registry import handler_of, why_not
from tersor.pipeline.select import identity, tied_to, users_of
from tersor.reporting.page import render
from tersor.reporting.profile import ModelProfile

NOT_YET = "not compressed yet"


@dataclass(frozen=True)
class LayerReport:
    """A layer with parameters of its own.

    Attributes:
        name: of the layer in the model.
        kind: the type of the dense layer.
        weights: number of its weights: of a compressed layer without the bias, of others all
            parameters.
        dense_bytes: what these take dense, in their own dtype.
        stored_bytes: what they take now; 0 where an earlier layer of the report has the same.
        compressed: whether it runs from a compressed weight.
        reason: why it is dense.
        density: share of the weights that are not zero.
        bits: stored bits for each weight, pruned ones counted.
        code_bits: bits for each stored code, after Huffman coding.
        codebook_size: non-zero codebook entries.
        relative_error: Frobenius norm of the weight's error over that of the weight, the largest of
            several weights; None where it is not known, as after loading.
        precision: class of arithmetic.
        runs: compressed or dense, and why, where that was decided for the batches met so far.
    """

    name: str
    kind: str
    weights: int
    dense_bytes: int
    stored_bytes: int
    compressed: bool
    reason: str | None = None
    density: float | None = None
    bits: float | None = None
    code_bits: float | None = None
    codebook_size: int | None = None
    relative_error: float | None = None
    precision: str | None = None
    runs: str | None = None

    @property
    def ratio(self) -> float | None:
        """How many times smaller a compressed layer is; None of others, and where it is shared."""
        return (
            self.dense_bytes / self.stored_bytes if self.compressed and self.stored_bytes else None
        )


@dataclass(frozen=True)
class ModelReport:
    """The layers of a model in its order.

    Attributes:
        layers: those that have parameters of their own.
        dense_bytes: of all parameters and buffers in their own dtypes, if all layers were dense.
        stored_bytes: of all tensors of the file that :func:`tersor.save` writes.
        model: itself.
    """

    layers: tuple[LayerReport, ...]
    dense_bytes: int
    stored_bytes: int
    model: nn.Module = field(repr=False, compare=False)

    @property
    def ratio(self) -> float:
        """How many times smaller the tensors are."""
        return self.dense_bytes / max(1, self.stored_bytes)

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON has them."""
        layers = [dataclasses.asdict(layer) for layer in self.layers]
        sizes = {"dense_bytes": self.dense_bytes, "stored_bytes": self.stored_bytes}
        return {"layers": layers, **sizes, "ratio": self.ratio}

    def to_html(self, title: str = "model", profile: ModelProfile | None = None) -> str:
        """A page about the model as it is now: where the bytes of its file would be.

        Args:
            title: of the page.
            profile: of the same model (:func:`tersor.profile`), for the time of each layer.

        Raises:
            ModuleNotFoundError: jinja2 is not installed (extra ``report``).
            ValueError: the model cannot be saved.
        """
        tensors, metadata = file_content(self.model)
        errors = {
            joined(layer.name, leaf): layer.relative_error
            for layer in self.layers
            if layer.relative_error is not None
            for leaf in matrices_of(self.model.get_submodule(layer.name))
        }
        times = {
            layer.name: (layer.dense_seconds * 1e3, layer.seconds * 1e3)
            for layer in (() if profile is None else profile.layers)
        }
        size = container.file_bytes(tensors, metadata)
        return render(tensors, metadata, size, title=title, errors=errors, times=times)

    def __str__(self) -> str:
        """A table, with the reasons of dense layers below."""
        heading = ("layer", "type", "weights", "density", "bits", "bytes", "ratio", "error")
        rows = [heading, *(_cells(layer) for layer in self.layers)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(heading))]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        lines.insert(1, "-" * max(map(len, lines)))
        reasons: dict[str, list[str]] = {}
        for layer in self.layers:
            if layer.reason is not None:
                reasons.setdefault(layer.reason, []).append(layer.name or layer.kind)
        lines.append("")
        for layer in self.layers:
            if layer.runs not in (None, "auto", "compressed"):
                lines.append(f"{layer.name or layer.kind} runs {layer.runs}")
        for reason, names in reasons.items():
            lines.append(f"dense: {', '.join(names)}: {reason}")
        lines.append(
            f"total: {self.dense_bytes:,} -> {self.stored_bytes:,} bytes ({self.ratio:.1f}x)"
        )
        return "\n".join(lines)


def _cells(layer: LayerReport) -> tuple[str, ...]:
    def shown(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return (
        layer.name or "(model)",
        layer.kind,
        f"{layer.weights:,}",
        shown(layer.density, ".1%"),
        shown(layer.bits, ".2f"),
        f"{layer.stored_bytes:,}",
        "" if layer.ratio is None else f"{layer.ratio:.1f}x",
        shown(layer.relative_error, ".2%"),
    )


def report(model: nn.Module) -> ModelReport:
    """Tells, layer by layer, what :func:`tersor.compress_` did to a model; ``print`` it.

    Works for compressed, loaded and dense models. What is not initialized yet counts as no bytes.
    """
    found = layers_of(model)
    reasons = _reasons(model, found)
    seen: set[Hashable] = set()
    layers = tuple(
        _compressed(names[0], module, seen)
        if matrices_of(module)
        else _dense(names[0], module, reasons, seen)
        for module, names in found.items()
    )
    return ModelReport(layers, _dense_bytes(model), stored_bytes(model), model)


def _reasons(model: nn.Module, layers: Mapping[nn.Module, Sequence[str]]) -> dict[str, str]:
    """Why layers are dense, by name: as the model remembers, or as their types and ties tell."""
    reasons = reasons_of(model)
    dense = {m: names for m, names in layers.items() if not matrices_of(m)}
    for module, names in dense.items():
        if (reason := why_not(module)) is not None:
            reasons.setdefault(names[0], reason)
    users = users_of(dense)
    others: dict[str, str] = {}
    for module, names in dense.items():
        handler = handler_of(module)
        if handler is None or names[0] in reasons:
            continue
        weights = [module._parameters.get(leaf) for leaf in handler.shapes(module)]
        tied = [n for w in weights if w is not None for n in users[identity(w)] if n in reasons]
        others[names[0]] = tied_to(tied[0], reasons[tied[0]]) if tied else NOT_YET
    return reasons | others


def _dense_bytes(model: nn.Module) -> int:
    """Of all parameters and buffers, if the compressed layers were dense; shared ones once."""
    sizes: dict[Hashable, int] = {}
    for module in model.modules():
        tensors = {**module._parameters, **module._buffers}
        if isinstance(module, Compressed):
            tensors.pop("values")
            dense = math.prod(module.shape) * module.dtype.itemsize
            sizes[identity(module.weight_blob)] = dense
            del tensors[module.blob_name]
        sizes.update({identity(t): nbytes(t) for t in tensors.values() if t is not None})
    return sum(sizes.values())


def _dense(
    name: str, module: nn.Module, reasons: Mapping[str, str], seen: set[Hashable]
) -> LayerReport:
    parameters = own_parameters(module)
    size = sum(nbytes(p) for p in parameters if identity(p) not in seen)
    seen.update(identity(p) for p in parameters)
    return LayerReport(
        name=name,
        kind=dense_type_of(module).__name__,
        weights=sum(0 if is_lazy(p) else p.numel() for p in parameters),
        dense_bytes=size,
        stored_bytes=size,
        compressed=False,
        reason=reasons[name],
    )


def _compressed(name: str, module: nn.Module, seen: set[Hashable]) -> LayerReport:
    """The row of a compressed layer; the sums over its weights where it has several."""
    weights = list(matrices_of(module).values())
    infos = [weight.info for weight in weights]
    count = sum(info.weights for info in infos)
    stored = dense = 0
    for weight, info in zip(weights, infos, strict=True):
        if identity(weight.weight_blob) not in seen:
            seen.add(identity(weight.weight_blob))
            stored += info.total_bytes
            dense += info.weights * weight.dtype.itemsize
    errors = [weight.relative_error for weight in weights]
    kind: Any = module._dense_type
    return LayerReport(
        name=name,
        kind=str(kind.__name__),
        weights=count,
        dense_bytes=dense,
        stored_bytes=stored,
        compressed=True,
        density=sum(info.nonzeros for info in infos) / max(1, count),
        bits=8 * sum(info.total_bytes for info in infos) / max(1, count),
        code_bits=sum(i.code_bits for i in infos) / max(1, sum(i.entries for i in infos)),
        codebook_size=max(info.clusters for info in infos),
        relative_error=max((e for e in errors if e is not None), default=None),
        precision=weights[0].precision,
        runs=_ways(module),
    )


def _ways(module: nn.Module) -> str:
    """How a layer runs, for the batches that it met or as it is set."""
    if not isinstance(module, Compressed) or module.execution == "compressed":
        return "compressed"
    made = dict.fromkeys(str(choice) for choice in module.choices.values())
    return "; ".join(made) if made else module.execution
