"""Error compensation: its algebra, and what it wins on inputs that correlate."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import tersor
from tersor import Config, LayerConfig
from tersor.calibration import compensation, statistics
from tersor.calibration.allocation import weight_rates
from tersor.calibration.blocks import Inputs
from tersor.pipeline.compress import estimate, fit


def inputs(samples: int, size: int, seed: int = 0) -> torch.Tensor:
    """That correlate, as activations do; the seed makes others of the same distribution."""
    mixing = torch.randn(size // 4, size, generator=torch.Generator().manual_seed(9))
    g = torch.Generator().manual_seed(seed)
    mixed = torch.randn(samples, size // 4, generator=g) @ mixing
    return mixed + 0.5 * torch.randn(samples, size, generator=g) + 1.0


def linear(rows: int, cols: int) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(cols, rows)


def problem(kind: str) -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    """A model of one layer, inputs for calibration, and inputs for the errors."""
    torch.manual_seed(0)
    if kind == "linear":
        return nn.Sequential(linear(60, 150)), inputs(256, 150), inputs(256, 150, 1)
    groups = 2 if kind == "groups" else 1
    layer = nn.Conv2d(16, 48, 3, padding=1, stride=2, groups=groups)
    x = inputs(12, 16 * 144).view(12, 16, 12, 12).cumsum(2).cumsum(3) / 20
    return nn.Sequential(layer), x, x.flip(0)


@pytest.mark.parametrize("kind", ["linear", "conv", "groups"])
def test_bits_of_ecsq_hold_about_and_errors_are_made_up_for(kind: str) -> None:
    model, x, new = problem(kind)
    settings = LayerConfig(codebook_size=63, method="ecsq", prune=True, bits=1.2)
    errors, sizes = [], []
    for calibration in (None, [x]):
        made = copy.deepcopy(model)
        tersor.compress_(made, Config(settings, settings), data=calibration)
        sizes.append(made[0].info.total_bytes - made[0].info.factor_bytes)
        with torch.no_grad():
            errors.append(float(((made(new) - model(new)) ** 2).mean()))
    assert sizes[1] < 1.2 * sizes[0]
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "conv", "groups"])
def test_a_size_is_met_with_less_error_than_without_inputs(kind: str, tmp_path: Path) -> None:
    model, x, new = problem(kind)
    errors = []
    for calibration in (None, [x]):
        made = copy.deepcopy(model)
        config = Config(target_ratio=8)
        size = estimate(made, config, data=calibration).compressed_bytes
        tersor.compress_(made, config, data=calibration)
        assert estimate(model, config, data=calibration).compressed_bytes == size
        tersor.save(made, tmp_path / "m.safetensors")
        written = (tmp_path / "m.safetensors").stat().st_size
        limit = sum(p.numel() * 4 for p in model.parameters()) // 8
        assert 0.9 * limit <= written <= limit
        with torch.no_grad():
            errors.append(float(((made(new) - model(new)) ** 2).mean()))
    assert errors[1] < 0.7 * errors[0]


def test_an_accuracy_is_kept_and_the_model_left_as_it_was() -> None:
    model, x, _ = problem("linear")
    before = copy.deepcopy(model.state_dict())
    exact = model(x).detach()

    @torch.no_grad()
    def evaluate(candidate: nn.Module) -> float:
        return -float((candidate(x) - exact).norm() / exact.norm())

    chosen = fit(model, Config(max_drop=0.1), data=[x], evaluate=evaluate)
    assert not chosen.searches
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    tersor.compress_(model, chosen, data=[x])
    assert -0.1 <= evaluate(model) <= -0.05


class Half(nn.Module):
    """Two layers, one of which is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = linear(20, 50), linear(30, 50)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.used(x)
        return y


def test_a_target_needs_inputs_that_reach_every_layer_and_no_importance() -> None:
    config, data = Config(target_ratio=4), [inputs(16, 50)]
    with pytest.raises(ValueError, match="unused: no calibration input"):
        tersor.compress_(Half(), config, data=data)
    with pytest.raises(ValueError, match="either importance or calibration"):
        tersor.compress_(Half(), config, importance={"used.weight": torch.ones(20, 50)}, data=data)


def test_a_layer_that_inputs_miss_keeps_its_own_settings() -> None:
    settings = LayerConfig(density=0.5, codebook_size=7)
    plain, made = Half(), Half()
    tersor.compress_(plain, Config(linear=settings))
    tersor.compress_(made, Config(linear=settings), data=[inputs(64, 50)])
    assert made.unused.info.clusters == 7
    assert torch.equal(made.unused.dense_weight(), plain.unused.dense_weight())
    assert not torch.equal(made.used.dense_weight(), plain.used.dense_weight())


@pytest.mark.parametrize("settings", [
    LayerConfig(density=0.5, codebook_size=15),
    LayerConfig(density=0.2, codebook_size=7),
    LayerConfig(codebook_size=3),
    LayerConfig(density=0.3, codebook_size=15, method="uniform"),
    LayerConfig(density=0.3, kind="plain_fp32"),
], ids=["half", "fifth", "dense", "uniform", "plain"])  # fmt: skip
@pytest.mark.parametrize("kind", ["linear", "conv", "groups"])
def test_outputs_are_nearer_than_by_magnitude_and_kmeans(kind: str, settings: LayerConfig) -> None:
    model, x, new = problem(kind)
    errors = []
    for calibration in (None, [x[:6], x[6:]]):
        made = copy.deepcopy(model)
        both = {"linear": settings, "conv": settings}
        tersor.compress_(made, Config(**both), data=calibration)
        info = made[0].info
        if settings.density is not None:
            assert info.nonzeros <= round(settings.density * info.weights)
            assert info.nonzeros >= 0.9 * settings.density * info.weights
        if settings.codebook_size:
            assert info.clusters <= settings.codebook_size
        with torch.no_grad():
            errors.append(float(((made(new) - model(new)) ** 2).mean()))
    assert errors[1] < (0.6 if kind == "linear" else 0.8) * errors[0]


def test_wide_layers_go_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MAX_INPUTS", 64)
    model, x = nn.Sequential(linear(60, 150)), inputs(256, 150)
    errors = []
    for calibration in (None, [x]):
        made = copy.deepcopy(model)
        settings = LayerConfig(density=0.4, codebook_size=15)
        tersor.compress_(made, Config(linear=settings), data=calibration)
        with torch.no_grad():
            errors.append(float(((made(x) - model(x)) ** 2).mean()))
    assert errors[1] < 0.7 * errors[0]


def test_inputs_that_do_not_vary_are_quantized_too() -> None:
    model = nn.Sequential(nn.Linear(60, 300), nn.ReLU(), nn.Linear(300, 40))
    with torch.no_grad():
        model[0].weight.zero_()  # as where a search prunes all of it
    x = inputs(1000, 60)
    expected = model(x[:1]).detach()
    settings = LayerConfig(density=0.5, codebook_size=15)
    tersor.compress_(model, Config(linear=settings), data=[x])
    # The bias takes up what the constant inputs lose.
    assert torch.allclose(model(x[:1]), expected, atol=1e-3)


def test_layers_are_quantized_in_order_and_zeros_stay() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 40), nn.ReLU(), nn.Dropout(), nn.Linear(40, 10)).train()
    with torch.no_grad():
        model[0].weight[:, 7] = 0
    x, dense = inputs(128, 60), copy.deepcopy(model).eval()
    settings = LayerConfig(density=0.5, codebook_size=15)
    order: list[str] = []
    named = {model[i]: (str(i), settings) for i in (0, 3)}
    compensation.compensate_(model, [x], named, order.append)
    assert order == ["0", "3"]
    assert model.training
    assert not model[0].weight[:, 7].any()
    # What the first layer lost the second one's bias gives back in the mean.
    assert torch.allclose(model.eval()(x).mean(0), dense(x).mean(0), atol=0.3)


def test_an_estimate_leaves_the_model_and_is_what_is_made() -> None:
    model, x = nn.Sequential(linear(30, 50)), inputs(128, 50)
    before = copy.deepcopy(model.state_dict())
    config = Config(linear=LayerConfig(density=0.3, codebook_size=7))
    size = estimate(model, config, data=[x]).layers["0"].total_bytes
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    tersor.compress_(model, config, data=[x])
    assert model[0].info.total_bytes == size


def test_what_cannot_be_done_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(linear(60, 50), nn.ReLU(), linear(40, 60))
    before = copy.deepcopy(model.state_dict())
    bad = inputs(16, 50)
    bad[3, 7] = float("nan")
    with pytest.raises(ValueError, match="0: its inputs hold NaN"):
        tersor.compress_(model, data=[inputs(16, 50), bad])
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    with pytest.raises(ValueError, match="cannot be combined"):
        tersor.compress_(model, Config(joint_codebook=LayerConfig()), data=[inputs(16, 50)])


@pytest.mark.parametrize("padding", ["same", "valid", 1])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_convolutions_of_all_paddings_are_made_up_for(padding: str | int, mode: str) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 48, 3, padding=padding, padding_mode=mode)
    x = inputs(12, 16 * 64).view(12, 16, 8, 8).cumsum(2) / 5
    settings = LayerConfig(density=0.3, codebook_size=15)
    errors = []
    for data in (None, [x]):
        made = tersor.compress_(
            copy.deepcopy(nn.Sequential(layer)), Config(conv=settings), data=data
        )
        with torch.no_grad():
            errors.append(float(((made(x) - layer(x)) ** 2).mean()))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_inputs_that_are_not_finite_name_the_layer(bad: float) -> None:
    model = nn.Sequential(linear(60, 50), nn.ReLU(), linear(40, 60))
    with torch.no_grad():
        model[0].bias[3] = bad  # what the inputs themselves do not show
    named = {model[2]: ("head", LayerConfig(density=0.5))}
    with pytest.raises(ValueError, match="head: its inputs hold NaN or infinite values, or some"):
        compensation.compensate_(model, [inputs(16, 50)], named)
    with pytest.raises(ValueError, match="head: its inputs hold"):
        weight_rates(model, {"head": [model[2]]}, Inputs([inputs(16, 50)]), {}, {"head": 255})


def test_weights_that_are_not_finite_name_the_layer() -> None:
    layer = linear(60, 50)
    with torch.no_grad():
        layer.weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match="head: the weight holds NaN or infinite"):
        compensation.compensate_(layer, [inputs(16, 50)], {layer: ("head", LayerConfig())})


def test_second_moments_of_no_inputs_name_the_layer() -> None:
    zero = torch.zeros(1, 50)
    impossible = statistics.InputStatistics(1, zero, [-torch.eye(50)[None]], zero)
    with pytest.raises(ValueError, match="head: the second moments of its inputs are not positive"):
        compensation.compensate_layer_(linear(60, 50), impossible, LayerConfig(), "head")


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("settings", [
    LayerConfig(density=0.3, codebook_size=15),
    LayerConfig(codebook_size=63, method="ecsq", prune=True, bits=1.2),
    LayerConfig(density=0.3, codebook_size=7, method="uniform"),
], ids=["kmeans", "ecsq", "uniform"])  # fmt: skip
def test_the_scale_of_the_inputs_makes_no_difference(settings: LayerConfig, bias: bool) -> None:
    weights = []
    for exponent in (0, -27, -50, 20):  # 2^-27 is 7e-9
        torch.manual_seed(0)
        layer = nn.Linear(150, 60, bias=bias)
        x = inputs(128, 150) * 2.0**exponent
        weights.append(tersor.compress_(layer, Config(settings), data=[x]).dense_weight())
    assert weights[0].count_nonzero() > 1000
    for weight in weights[1:]:
        assert torch.equal(weight, weights[0])


def test_inputs_that_are_all_zero_give_no_error() -> None:
    settings = LayerConfig(density=0.3, codebook_size=15)
    made = tersor.compress_(linear(60, 150), Config(settings), data=[torch.zeros(16, 150)])
    assert made.info.nonzeros == round(0.3 * 60 * 150)


class Branches(nn.Module):
    """Batches take one of two ways; the longer one has a layer more, before the last."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.extra, self.first = linear(60, 60), linear(60, 60), linear(60, 60)
        self.never = linear(60, 60)

    def forward(self, x: torch.Tensor, long: bool = False) -> torch.Tensor:
        h = self.first(x).relu()
        if long:
            h = self.extra(h).relu()
        y: torch.Tensor = self.last(input=self.last(h).relu())
        return y


def test_layers_are_quantized_in_the_order_of_all_batches() -> None:
    model = Branches()
    before = copy.deepcopy(model.state_dict())
    settings = LayerConfig(density=0.5, codebook_size=15)
    named = {m: (n, settings) for n, m in model.named_children()}
    order: list[str] = []
    data = [(inputs(64, 60), False), {"x": inputs(64, 60, 1), "long": True}]
    reached = compensation.compensate_(model, data, named, order.append)
    assert order == ["first", "extra", "last"]
    assert reached.keys() == {model.first, model.extra, model.last}
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]) == name.startswith("never")
    layers = {name: [layer] for name, layer in model.named_children()}
    rates, _ = weight_rates(model, layers, Inputs(data), {}, dict.fromkeys(layers, 255))
    assert rates.keys() == {"first", "extra", "last"}


def test_a_layer_of_later_batches_has_the_settings_it_was_measured_with(tmp_path: Path) -> None:
    model = Branches()
    del model.never
    data = [(inputs(64, 60), False), (inputs(64, 60, 1), True)]
    tersor.compress_(model, Config(target_ratio=8), data=data)
    tersor.save(model, tmp_path / "m.safetensors")
    limit = sum(p.numel() * 4 for p in Branches().parameters()) * 3 // 4 // 8
    assert 0.9 * limit <= (tmp_path / "m.safetensors").stat().st_size <= limit


def hooked(layer: nn.Linear, how: str) -> nn.Linear:
    if how == "prune":
        torch.nn.utils.prune.l1_unstructured(layer, "weight", 0.2)
    elif how == "weight_norm":
        torch.nn.utils.weight_norm(layer)
    elif how == "spectral_norm":
        torch.nn.utils.spectral_norm(layer)
    else:
        torch.nn.utils.parametrizations.weight_norm(layer)
    return layer


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("how", ["prune", "weight_norm", "spectral_norm", "parametrization"])
def test_weights_that_hooks_compute_get_what_was_asked_or_are_refused(how: str) -> None:
    settings = LayerConfig(density=0.3, codebook_size=7)
    model = nn.Sequential(hooked(linear(60, 150), how), nn.ReLU(), hooked(linear(60, 60), how))
    with pytest.raises(ValueError, match="head: weight is computed before each forward"):
        compensation.compensate_(model, [inputs(64, 150)], {model[2]: ("head", settings)})
    tersor.compress_(model, Config(settings), data=[inputs(64, 150)])
    for layer in (model[0], model[2]):
        assert 0.27 * layer.info.weights <= layer.info.nonzeros <= 0.3 * layer.info.weights
        assert layer.info.clusters <= 7


def test_a_layer_that_is_not_supported_is_refused_by_name() -> None:
    layer = nn.Linear(60, 60, dtype=torch.cfloat)
    with pytest.raises(ValueError, match="odd: weight is complex64, not float"):
        compensation.compensate_(layer, [torch.zeros(1, 60)], {layer: ("odd", LayerConfig())})


@pytest.mark.parametrize("settings", [
    LayerConfig(density=0.3, codebook_size=15),
    LayerConfig(codebook_size=63, method="ecsq", prune=True, bits=1.2),
], ids=["kmeans", "ecsq"])  # fmt: skip
@pytest.mark.parametrize("kind", ["linear", "groups"])
def test_all_is_computed_on_the_device_of_the_model(kind: str, settings: LayerConfig) -> None:
    """Whatever the default device is: a tensor of another one would raise."""
    model, x, _ = problem(kind)
    other = copy.deepcopy(model)
    compensation.compensate_(model, [x], {model[0]: ("0", settings)})
    with torch.device("meta"):
        compensation.compensate_(other, [x], {other[0]: ("0", settings)})
    assert torch.equal(model[0].weight, other[0].weight)
    assert torch.equal(model[0].bias, other[0].bias)
