"""Dense weight to compressed tensor and back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tersor import LayerConfig
from tersor.codec.blob import decode_blob, encode_blob
from tersor.codec.encode import compress_weight, decompress_weight
from tersor.pruning.magnitude import kept_weights


def test_the_default_config_keeps_zeros_and_quantized_weights_exactly() -> None:
    weight = torch.randn(40, 30) * (torch.rand(40, 30) < 0.3)
    back = decompress_weight(compress_weight(weight, LayerConfig()))
    assert np.array_equal(back == 0, (weight == 0).numpy())
    assert len(np.unique(back)) <= 16
    again = decompress_weight(compress_weight(torch.from_numpy(back).double(), LayerConfig()))
    assert np.array_equal(again, back)


@pytest.mark.parametrize("kind", ["plain_fp32", "plain_fp16", "shared_fp16"])
def test_other_kinds(kind: str) -> None:
    weight = torch.randn(6, 50)[:, ::2].half().float()
    layer = compress_weight(weight, LayerConfig(kind=kind, density=0.5, codebook_size=200))
    back = torch.from_numpy(decompress_weight(layer))
    assert int((back != 0).sum()) == 75
    assert torch.equal(back[back != 0], weight[back != 0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"algorithm": "fast"},
        {"entropy": "best"},
        {"precision": "fp8"},
        {"kind": "dense"},
        {"codebook_size": 256},
    ],
)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        LayerConfig(**wrong)


@pytest.mark.parametrize("method", ["kmeans", "uniform", "ecsq"])
def test_every_method_respects_the_codebook_size(method: str) -> None:
    weight = np.random.default_rng(0).normal(0, 1, (30, 40)).astype(np.float32)
    layer = compress_weight(weight, LayerConfig(method=method, codebook_size=16, density=0.5))
    assert 2 <= len(layer.values) <= 16
    kept = decompress_weight(layer) != 0
    assert 0.3 * weight.size < kept.sum() <= 0.5 * weight.size
    assert np.abs(decompress_weight(layer) - weight)[kept].mean() < 0.3


def test_importance_moves_the_codebook_to_important_weights() -> None:
    weight = np.random.default_rng(0).normal(0, 1, (30, 40)).astype(np.float32)
    importance = np.where(weight > 0, 100.0, 1.0).astype(np.float32)
    error = [
        (decompress_weight(layer) - weight)[weight > 0].std()
        for layer in (
            compress_weight(weight, LayerConfig(codebook_size=6)),
            compress_weight(weight, LayerConfig(codebook_size=6), importance=importance),
        )
    ]
    assert error[1] < 0.7 * error[0]
    with pytest.raises(ValueError, match="w: the importance has negative values"):
        compress_weight(weight, LayerConfig(codebook_size=6), "w", -importance)
    with pytest.raises(ValueError, match="w: importance has shape"):  # also if nothing is chosen
        compress_weight(np.ones((2, 3), np.float32), LayerConfig(), "w", importance)


@pytest.mark.parametrize("density", [0.0, 0.001, 0.1, 0.5, 0.999, 1.0])
def test_the_largest_weights_are_kept_to_the_exact_number(density: float) -> None:
    rng = np.random.default_rng(0)
    for weight in (
        rng.normal(0, 1, (70, 90)).astype(np.float32),
        rng.integers(-3, 4, (70, 90)).astype(np.float32),  # many are equal
        (rng.normal(0, 1e-30, (70, 90)) * (rng.random((70, 90)) < 0.4)).astype(np.float32),
    ):
        kept = kept_weights(weight, density)
        expected = min(round(density * weight.size), np.count_nonzero(weight))
        assert np.count_nonzero(kept) == expected
        size = np.abs(weight)
        if 0 < expected < weight.size:
            assert size[kept].min() >= size[~kept].max()
            border = np.flatnonzero(size == size[kept].min())  # the first of equal ones stay
            assert (np.diff(kept.reshape(-1)[border].astype(int)) <= 0).all()


@pytest.mark.parametrize("shape", [(60, 80), (16, 8, 3, 3), (400,)])
def test_the_smallest_entropy_keeps_the_weights_in_fewer_bytes(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    weight = rng.normal(0, 1, shape).astype(np.float32)
    settings = LayerConfig(codebook_size=7, density=0.3)
    usual = compress_weight(weight, settings)
    smallest = compress_weight(weight, dataclasses.replace(settings, entropy="smallest"))
    assert smallest.entropy == "smallest"
    assert np.array_equal(decompress_weight(smallest), decompress_weight(usual))
    assert encode_blob(smallest).size < encode_blob(usual).size
    back = decode_blob(encode_blob(smallest))
    assert back.entropy == "smallest"
    assert np.array_equal(decompress_weight(back), decompress_weight(usual))


def test_where_the_smallest_entropy_is_larger_huffman_stays() -> None:
    weight = np.random.default_rng(1).integers(0, 2, (40, 50)).astype(np.float32)
    smallest = compress_weight(weight, LayerConfig(entropy="smallest"))
    usual = compress_weight(weight, LayerConfig())
    assert encode_blob(smallest).size <= encode_blob(usual).size
    plain = compress_weight(weight, LayerConfig(kind="plain_fp32", entropy="smallest"))
    assert plain.entropy == "huffman"


def test_bits_belong_to_ecsq() -> None:
    with pytest.raises(ValueError, match="bits are those of ecsq"):
        LayerConfig(bits=2.0)
    with pytest.raises(ValueError, match="method 'magic' is none of"):
        LayerConfig(method="magic")
