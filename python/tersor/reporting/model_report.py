"""What was done to each layer of a model, and why others stayed dense."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import nn

from tersor.io.checkpoint import file_content
from tersor.nn.base import Compressed
from tersor.nn.compression import Compression, compression_of
from tersor.nn.registry import why_not
from tersor.nn.wrappers import plain_name, wrapper_prefix


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
        relative_error: Frobenius norm of the weight's error over that of the weight; None where it
            is not known, as after loading.
        precision: class of arithmetic.
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


@dataclass(frozen=True)
class ModelReport:
    """The layers of a model in its order.

    Attributes:
        layers: those that have parameters of their own.
        dense_bytes: of all parameters and buffers in their own dtypes, before compression.
        stored_bytes: of all tensors of the file that :func:`tersor.save` writes.
    """

    layers: tuple[LayerReport, ...]
    dense_bytes: int
    stored_bytes: int

    @property
    def ratio(self) -> float:
        """How many times smaller the tensors are."""
        return self.dense_bytes / max(1, self.stored_bytes)

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON has them."""
        return {**dataclasses.asdict(self), "ratio": self.ratio}

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
        f"{layer.dense_bytes / layer.stored_bytes:.1f}x"
        if layer.compressed and layer.stored_bytes
        else "",
        shown(layer.relative_error, ".2%"),
    )


def report(model: nn.Module) -> ModelReport:
    """Tells, layer by layer, what :func:`tersor.compress_` did to a model; ``print`` it.

    Works for compressed, loaded and dense models.
    """
    compression = compression_of(model) or Compression()
    prefix = wrapper_prefix(model)
    seen: set[int] = set()
    layers = [
        _layer(plain_name(name, prefix), module, compression, seen)
        for name, module in model.named_modules()
        if any(p is not None for p in module._parameters.values()) or isinstance(module, Compressed)
    ]
    tensors, _ = file_content(model)
    stored = sum(tensor.nbytes for tensor in tensors.values())
    dense = compression.dense_bytes
    if dense is None:  # what the layers would take, and all that belongs to none
        others = sum(layer.dense_bytes - layer.stored_bytes for layer in layers)
        held = {id(t): t for t in [*model.parameters(), *model.buffers()]}
        dense = sum(t.numel() * t.element_size() for t in held.values()) + others
    return ModelReport(tuple(layers), dense, stored)


def _layer(name: str, module: nn.Module, compression: Compression, seen: set[int]) -> LayerReport:
    if isinstance(module, Compressed):
        return _compressed(name, module, seen)
    parameters = [p for p in module._parameters.values() if p is not None]
    size = sum(p.numel() * p.element_size() for p in parameters if id(p) not in seen)
    seen.update(id(p) for p in parameters)
    reason = compression.left.get(name) or why_not(module) or "not compressed yet"
    return LayerReport(
        name=name,
        kind=type(module).__name__,
        weights=sum(p.numel() for p in parameters),
        dense_bytes=size,
        stored_bytes=size,
        compressed=False,
        reason=reason,
    )


def _compressed(name: str, module: Compressed, seen: set[int]) -> LayerReport:
    info = module.info
    first = id(module.weight_blob) not in seen
    seen.add(id(module.weight_blob))
    return LayerReport(
        name=name,
        kind=module._dense_type.__name__,
        weights=info.weights,
        dense_bytes=info.weights * module.dtype.itemsize if first else 0,
        stored_bytes=info.total_bytes if first else 0,
        compressed=True,
        density=info.nonzeros / max(1, info.weights),
        bits=8 * info.total_bytes / max(1, info.weights),
        code_bits=info.code_bits / max(1, info.entries),
        codebook_size=info.clusters,
        relative_error=module.relative_error,
        precision=module.precision,
    )
