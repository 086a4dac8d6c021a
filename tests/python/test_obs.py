"""Error compensation: its algebra, and what it wins on inputs that correlate."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import tersor
from tersor import Config, LayerConfig, moments, obs
from tersor.compress import estimate


def inputs(samples: int, size: int, seed: int = 0) -> torch.Tensor:
    """That correlate, as activations do; the seed makes others of the same distribution."""
    mixing = torch.randn(size // 4, size, generator=torch.Generator().manual_seed(9))
    g = torch.Generator().manual_seed(seed)
    mixed = torch.randn(samples, size // 4, generator=g) @ mixing
    return mixed + 0.5 * torch.randn(samples, size, generator=g) + 1.0


def linear(rows: int, cols: int) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(cols, rows)


def test_the_root_is_that_of_the_damped_inverse() -> None:
    x = inputs(300, 40)
    second = x.T @ x / len(x)
    root = obs.inverse_root(second)
    assert torch.equal(root, root.triu())
    damped = second + obs._DAMPING * second.diagonal().mean() * torch.eye(40)
    assert torch.allclose(root.T @ root @ damped, torch.eye(40), atol=1e-3)


def test_one_pruned_weight_is_made_up_for_exactly() -> None:
    """The later weights become those of least squares with the pruned one held at zero."""
    x, weight = inputs(500, 200).double(), torch.randn(3, 200).double()
    second = (x.T @ x / len(x)).float()
    root = obs.inverse_root(second)
    cut = 130

    def settle(column: torch.Tensor, i: int) -> torch.Tensor:
        return torch.zeros_like(column) if i == cut else column.clone()

    got = obs.sweep(weight.float(), root, settle).double()
    damped = torch.linalg.inv((root.T @ root).double())
    later = slice(cut + 1, 200)
    step = torch.linalg.solve(damped[later, later], damped[later, cut])
    assert torch.equal(got[:, :cut], weight.float()[:, :cut].double())
    expected = weight[:, later] + weight[:, cut : cut + 1] * step
    assert torch.allclose(got[:, later], expected, atol=2e-3)


@pytest.mark.parametrize("settings", [
    LayerConfig(density=0.5, values=15),
    LayerConfig(density=0.2, values=7),
    LayerConfig(values=3),
    LayerConfig(density=0.3, values=15, method="uniform"),
    LayerConfig(density=0.3, kind="plain_fp32"),
], ids=["half", "fifth", "dense", "uniform", "plain"])  # fmt: skip
@pytest.mark.parametrize("kind", ["linear", "conv", "groups"])
def test_outputs_are_nearer_than_by_magnitude_and_kmeans(kind: str, settings: LayerConfig) -> None:
    torch.manual_seed(0)
    if kind == "linear":
        layer, x = linear(60, 150), inputs(256, 150)
    else:
        groups = 2 if kind == "groups" else 1
        layer = nn.Conv2d(16, 24, 3, padding=1, stride=2, groups=groups)
        x = inputs(12, 16 * 144).view(12, 16, 12, 12).cumsum(2).cumsum(3) / 20
    model = nn.Sequential(layer)
    new = inputs(256, 150, 1) if kind == "linear" else x.flip(0)
    errors = []
    for calibration in (None, [x[:6], x[6:]]):
        made = copy.deepcopy(model)
        both = {"linear": settings, "conv": settings}
        tersor.compress_(made, Config(**both, calibration=calibration))
        info = made[0].info
        if settings.density is not None:
            assert info.nonzeros <= round(settings.density * info.weights)
            assert info.nonzeros >= 0.9 * settings.density * info.weights
        if settings.values:
            assert info.clusters <= settings.values
        with torch.no_grad():
            errors.append(float(((made(new) - model(new)) ** 2).mean()))
    assert errors[1] < (0.6 if kind == "linear" else 0.8) * errors[0]


def test_wide_layers_go_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "MAX_INPUTS", 64)
    model, x = nn.Sequential(linear(60, 150)), inputs(256, 150)
    errors = []
    for calibration in (None, [x]):
        made = copy.deepcopy(model)
        settings = LayerConfig(density=0.4, values=15)
        tersor.compress_(made, Config(linear=settings, calibration=calibration))
        with torch.no_grad():
            errors.append(float(((made(x) - model(x)) ** 2).mean()))
    assert errors[1] < 0.7 * errors[0]


def test_layers_are_settled_in_order_and_zeros_stay() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 40), nn.ReLU(), nn.Dropout(), nn.Linear(40, 10)).train()
    with torch.no_grad():
        model[0].weight[:, 7] = 0
    x, dense = inputs(128, 60), copy.deepcopy(model).eval()
    settings = LayerConfig(density=0.5, values=15)
    order: list[str] = []
    named = {model[i]: (str(i), settings) for i in (0, 3)}
    obs.compensate_(model, [x], named, order.append)
    assert order == ["0", "3"]
    assert model.training
    assert not model[0].weight[:, 7].any()
    # What the first layer lost the second one's bias gives back in the mean.
    assert torch.allclose(model.eval()(x).mean(0), dense(x).mean(0), atol=0.3)


def test_an_estimate_leaves_the_model_and_is_what_is_made() -> None:
    model, x = nn.Sequential(linear(30, 50)), inputs(128, 50)
    before = copy.deepcopy(model.state_dict())
    config = Config(linear=LayerConfig(density=0.3, values=7), calibration=[x])
    size = estimate(model, config).layers["0"].total_bytes
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    tersor.compress_(model, config)
    assert model[0].info.total_bytes == size


def test_what_cannot_be_done_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(linear(20, 50), nn.Flatten(), nn.Unflatten(1, (20, 1, 1)))
    model.append(nn.Conv2d(20, 5, 1, padding="same"))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="padding"):
        tersor.compress_(model, Config(calibration=[inputs(16, 50)]))
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    with pytest.raises(ValueError, match="cannot be combined"):
        Config(calibration=[], target_bytes=9)
