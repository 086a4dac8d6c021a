"""Size and accuracy targets, checked on files that are really written."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import Net, images, net
from torch import nn

import tersor
from tersor import Config, LayerConfig
from tersor.codec.blob import decode_blob
from tersor.codec.encode import decompress_weight
from tersor.pipeline.compress import fit, tensor_bytes
from tersor.search import rate_distortion


@torch.no_grad()
def trained(model: nn.Module) -> nn.Module:
    """With weights of the shape that training leaves, which is no even distribution."""
    generator = np.random.default_rng(0)
    for p in model.parameters():
        if p.dim() > 1:
            p.copy_(torch.from_numpy(generator.laplace(0, 0.05, tuple(p.shape))))
    return model.eval()


def mlp() -> nn.Module:
    return trained(
        nn.Sequential(nn.Linear(150, 100), nn.ReLU(), nn.Linear(100, 60), nn.Linear(60, 10))
    )


def cnn() -> nn.Module:
    layers = [nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 48, 3, groups=2)]
    return trained(nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(48 * 4 * 4, 10)))


class Tied(nn.Module):
    """Two names for one weight, and one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(80, 80), nn.Linear(80, 80)
        self.b = self.a
        self.c.weight = self.a.weight
        self.d = nn.Linear(80, 7, bias=False)
        trained(self)


@pytest.mark.slow
@pytest.mark.parametrize("make", [mlp, cnn, Tied])
@pytest.mark.parametrize("ratio", [5.0, 8.0, 14.0])
def test_the_written_file_lands_just_within_the_ratio(make, ratio: float, tmp_path: Path) -> None:
    model = make()
    dense = tensor_bytes(model)
    tersor.compress_(model, Config(target_ratio=ratio))
    tersor.save(model, tmp_path / "m.safetensors")
    size = (tmp_path / "m.safetensors").stat().st_size
    assert 0.97 * dense / ratio <= size <= dense / ratio
    assert isinstance(tersor.load(tmp_path / "m.safetensors", make()), nn.Module)


@pytest.mark.parametrize("target", [2_500, 6_000, 20_000])
def test_the_written_file_lands_just_within_the_bytes(target: int, tmp_path: Path) -> None:
    model = mlp()
    half = LayerConfig(kind="shared_fp16")
    config = Config(linear=half, biases=half, target_bytes=target)
    tersor.compress_(model, config)
    tersor.save(model, tmp_path / "m.safetensors")
    assert 0.97 * target <= (tmp_path / "m.safetensors").stat().st_size <= target


@pytest.mark.slow
def test_more_bytes_give_less_error_and_every_layer_its_share() -> None:
    errors = []
    for ratio in (20.0, 12.0, 7.0):
        model = mlp()
        dense = copy.deepcopy(model)
        chosen = fit(model, Config(target_ratio=ratio))
        assert not chosen.searches
        tersor.compress_(model, chosen)
        layers = [(dense[i].weight.detach(), model[i].dense_weight()) for i in (0, 2, 3)]
        errors.append([float(((b - a) ** 2).sum() / (a**2).sum()) for a, b in layers])
        # The small last layer costs little, and its relative error counts as much as any.
        assert errors[-1][2] < errors[-1][0]
    assert (np.diff(errors, axis=0) < 0).all()


@pytest.mark.slow
def test_moving_bytes_between_layers_does_not_lower_the_distortion() -> None:
    rng = np.random.default_rng(0)
    weights = {n: rng.laplace(0, 1, s).astype(np.float32) for n, s in (("a", 9000), ("b", 3000))}
    items = {n: rate_distortion.Item(w.reshape(30, -1), LayerConfig()) for n, w in weights.items()}

    def error(blobs: rate_distortion.Blobs) -> float:
        return sum(
            float(((decompress_weight(decode_blob(b)) - items[n].weight) ** 2).sum())
            / float((items[n].weight ** 2).sum())
            for n, b in blobs.items()
        )

    def made(chosen: dict[str, LayerConfig]) -> rate_distortion.Blobs:
        return {
            n: tersor.codec.blob.encode_blob(
                tersor.codec.encode.compress_weight(items[n].weight, s)
            )
            for n, s in chosen.items()
        }

    def size(blobs: rate_distortion.Blobs) -> float:
        return float(sum(b.size for b in blobs.values()))

    best = made(rate_distortion.fit(items, size, 2500, size=True))
    assert size(best) <= 2500
    for share in (0.3, 0.5, 0.65, 0.8):
        apart = {}
        for name, part in (("a", share), ("b", 1 - share)):
            one = {name: items[name]}
            apart |= made(rate_distortion.fit(one, size, 2500 * part, size=True))
        assert error(best) < error(apart) * 1.01


def test_accuracy_is_kept_and_the_model_unchanged() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    exact = model(images()).detach()

    @torch.no_grad()
    def evaluate(candidate: Net) -> float:
        return -float((candidate(images()) - exact).norm() / exact.norm())

    tight = fit(model, Config(max_drop=0.05), evaluate=evaluate)
    assert all(torch.equal(model.state_dict()[n], v) for n, v in before.items())
    loose = fit(model, Config(max_drop=0.5), evaluate=evaluate)
    sizes = [tersor.estimate(model, c).compressed_bytes for c in (tight, loose)]
    assert sizes[1] < sizes[0]
    tersor.compress_(model, tight)
    assert -0.051 < evaluate(model) <= 0


def test_given_settings_constrain_the_search() -> None:
    model = mlp()
    settings = LayerConfig(
        codebook_size=5, density=0.2, index_bits=4, flat=True, kind="shared_fp16"
    )
    tersor.compress_(model, Config(linear=settings, target_ratio=8.0, overrides={"3": None}))
    assert type(model[3]) is nn.Linear
    for layer in (model[0], model[2]):
        info = layer.info
        assert info.clusters <= 5
        assert info.nonzeros <= 0.2 * info.weights + 1
        assert (info.index_bits, info.flat, info.kind) == (4, True, "shared_fp16")


@pytest.mark.slow
def test_importance_across_layers_moves_bytes() -> None:
    model = mlp()
    importance = {f"{i}.weight": torch.ones_like(model[i].weight) for i in (0, 2, 3)}
    importance["2.weight"] *= 1000
    plain = tersor.estimate(model, Config(target_ratio=12.0))
    moved = tersor.estimate(model, Config(target_ratio=12.0), importance=importance)
    assert moved.layers["2"].total_bytes > 1.5 * plain.layers["2"].total_bytes
    del importance["3.weight"]
    with pytest.raises(ValueError, match="3: importance is missing"):
        tersor.estimate(model, Config(target_ratio=12.0), importance=importance)


def test_unreachable_and_invalid_targets_are_reported() -> None:
    with pytest.raises(
        ValueError, match=r"target_bytes=100: the smallest configuration takes [\d,]+ bytes"
    ):
        tersor.compress_(mlp(), Config(target_bytes=100))
    with pytest.raises(ValueError, match=r"reach target_ratio=900 \([\d,]+ bytes\): the smallest"):
        tersor.compress_(mlp(), Config(target_ratio=900))
    for wrong in (
        {"target_bytes": 10, "target_ratio": 2.0},
        {"target_bytes": 0},
        {"target_ratio": -1.0},
        {"max_drop": -0.1},
    ):
        with pytest.raises(ValueError, match="target|max_drop"):
            Config(**wrong)
