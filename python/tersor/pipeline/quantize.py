"""Stage 3, quantize: codes and a codebook for each weight, or one codebook for all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from tersor._validation import as_float32
from tersor.codec.encode import compress_weight, decompress_weight
from tersor.config import LayerConfig
from tersor.pipeline.records import WeightRecord
from tersor.pruning.magnitude import kept_by
from tersor.quantizers.choose import quantize_by


def quantize(record: WeightRecord) -> None:
    """Prunes and quantizes a weight by the settings of its record.

    Raises:
        ValueError: a weight holds NaN or infinity, or its importance does not fit it; the message
            names the layer.
    """
    scaled = record.scaled
    weight: torch.Tensor
    if scaled is None:
        weight, importance = record.parameter, record.importance
    else:
        weight, importance = scaled.values.reshape(record.parameter.shape), None
    record.quantized = compress_weight(weight, record.settings, record.label, importance)
    if scaled is not None and scaled.rows is not None:
        record.quantized = dataclasses.replace(
            record.quantized,
            row_factors=_factors(scaled.rows),
            column_factors=None if scaled.columns is None else _factors(scaled.columns),
        )
    record.relative_error = _relative_error(record)


def _factors(factors: torch.Tensor) -> npt.NDArray[np.float32] | None:
    """Factors as the codec takes them; None where all are 1."""
    found: npt.NDArray[np.float32] = factors.flatten().cpu().numpy()
    return None if (found == 1).all() else found


def _relative_error(record: WeightRecord) -> float:
    """Of the quantized weight, against the dense one from before calibration."""
    assert record.quantized is not None
    dense = as_float32(record.original, record.label)
    error = np.linalg.norm((dense - decompress_weight(record.quantized)).reshape(-1))
    return float(error) / max(float(np.linalg.norm(dense.reshape(-1))), 1e-30)


def exact(settings: LayerConfig) -> LayerConfig:
    """Settings that keep the values which a weight has already."""
    return LayerConfig(
        codebook_size=255,
        kind=settings.kind,
        index_bits=settings.index_bits,
        flat=settings.flat,
        entropy=settings.entropy,
        precision=settings.precision,
        execution=settings.execution,
    )


@torch.no_grad()
def share_one_codebook_(records: Sequence[WeightRecord], joint: LayerConfig) -> None:
    """Prunes the weights and puts them on one codebook, in place; the records then keep that.

    Raises:
        ValueError: as the quantizers of :mod:`tersor.quantizers`.
    """
    if not records:
        return
    weights = {record.name: as_float32(record.parameter, record.label) for record in records}
    kept = {record.name: kept_by(weights[record.name], record.settings) for record in records}
    importance = {r.name: r.importance for r in records if r.importance is not None}
    quantized = quantize_by(
        weights, kept, joint, joint.codebook_size or 255, importance or None, joint=True
    )
    for record in records:
        record.keep()
        record.parameter.copy_(torch.from_numpy(quantized[record.name].dense()))
        record.settings = exact(record.settings)
