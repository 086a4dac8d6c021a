"""Sensitivity against its definition, by autograd."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from calibration.memory import LargestTensor
from torch import nn

from tersor.calibration import sample_gradients
from tersor.calibration.sensitivity import adam_importance, hessian_diagonal, hutchinson_diagonal


def small_net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(3, 5),
        nn.ReLU(),
        nn.Linear(5, 4),
    )
    net[1].running_mean = torch.randn(4) * 0.1
    net[1].running_var = torch.rand(4) + 0.5
    return net.eval().double()


def true_diagonal(net: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """By autograd, of the mean cross-entropy over all samples and positions."""
    names = [n for n, p in net.named_parameters() if p.dim() > 1 and n != "positions"]
    made = {}
    for name in names:
        weight = dict(net.named_parameters())[name].detach()

        def loss(w: torch.Tensor, name: str = name) -> torch.Tensor:
            scores = torch.func.functional_call(net, {name: w}, (x,)).flatten(0, -2)
            # Any labels: they do not enter the second derivative.
            return F.cross_entropy(scores, torch.arange(len(scores)) % scores.shape[-1])

        hessian = torch.autograd.functional.hessian(loss, weight)
        made[name] = hessian.reshape(weight.numel(), -1).diagonal().view(weight.shape)
    return made


def squared_jacobian(net: nn.Module, x: torch.Tensor, name: str) -> torch.Tensor:
    """The diagonal of the Gauss-Newton matrix by its definition, prediction by prediction."""
    weight = net.get_parameter(name)
    total, count = torch.zeros_like(weight), 0
    for sample in x:
        scores = net(sample[None]).flatten(0, -2)
        for z in scores:
            p = z.detach().softmax(-1)
            for c in range(len(p)):
                s = p[c].sqrt() * (F.one_hot(torch.tensor(c), len(p)) - p)
                (gradient,) = torch.autograd.grad(z @ s, weight, retain_graph=True)
                total += gradient**2
            count += 1
    return total.detach() / count


def check_exact(net: nn.Module, x: torch.Tensor, *, batches: int = 2) -> None:
    """Checks the diagonal against that of autograd."""
    truth = true_diagonal(net, x)
    got = hessian_diagonal(net, x.tensor_split(batches))
    assert got.keys() == truth.keys()
    for name, value in truth.items():
        assert value.abs().max() > 0
        torch.testing.assert_close(got[name], value)


def test_exact_diagonal_is_that_of_autograd() -> None:
    check_exact(small_net(), torch.randn(6, 2, 8, 8, dtype=torch.float64))


@pytest.mark.slow
def test_draws_estimate_the_same() -> None:
    net = small_net()
    x = torch.randn(6, 2, 8, 8, dtype=torch.float64)
    exact = hessian_diagonal(net, [x])
    estimate = hessian_diagonal(net, [x], draws=3000)
    for name, value in exact.items():
        torch.testing.assert_close(estimate[name], value, rtol=0.25, atol=0.05 * value.max())


def test_sequences_go_through_linear_layers() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 4)).double()
    check_exact(net, torch.randn(5, 4, 3, dtype=torch.float64))


def test_samples_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_gradients, "_CHUNK", 150)
    check_exact(small_net(), torch.randn(7, 2, 8, 8, dtype=torch.float64))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU])
@pytest.mark.parametrize("frozen", [False, True])
def test_activations_in_place_make_no_difference(activation: type[nn.Module], frozen: bool) -> None:
    found = []
    for inplace in (False, True):
        net = small_net().requires_grad_(not frozen)
        for i in (2, 4, 8):
            net[i] = activation(inplace=inplace)
        x = torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(0)).double()
        found.append(hessian_diagonal(net, [x]))
    for name, value in found[0].items():
        assert value.max() > 0
        torch.testing.assert_close(found[1][name], value, rtol=1e-6, atol=0)


class InPlace(nn.Module):
    """Outputs of layers are changed in place, in several ways."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(2, 3, 3), nn.Linear(3, 4)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv(x)
        h += 0.1
        h = F.relu_(h.mul_(2.0)).mean((2, 3))
        scores: torch.Tensor = self.fc(h)
        scores[:, 0] *= 3.0
        return scores


def test_operations_in_place_make_no_difference() -> None:
    check_exact(InPlace(), torch.randn(6, 2, 5, 5, dtype=torch.float64))


@pytest.mark.parametrize("inplace", [False, True])
def test_inputs_without_a_batch_dimension(inplace: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Flatten(0, 1), nn.Conv2d(2, 3, 3), nn.ReLU(inplace=inplace))
    net = nn.Sequential(conv, nn.Flatten(0), nn.Unflatten(0, (1, 27)), nn.Linear(27, 4)).double()
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64)
    check_exact(net, x, batches=1)


class Twice(nn.Module):
    """A layer that is called twice, on other numbers of rows, and two that are tied."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.again = nn.Linear(5, 5), nn.Linear(5, 5)
        self.tied = nn.Linear(5, 5)
        self.tied.weight = self.again.weight
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.fc(input=x).relu()  # [n, t, 5]
        h = self.fc(h.sum(1)).relu()
        y: torch.Tensor = self.tied(self.again(h).relu())
        return y


def test_all_calls_of_a_weight_are_summed_before_squaring() -> None:
    net = Twice()
    x = torch.randn(6, 3, 5, dtype=torch.float64)
    got = hessian_diagonal(net, x.split(4))
    assert got.keys() == {"fc.weight", "again.weight", "tied.weight"}
    for name in ("fc.weight", "again.weight"):
        torch.testing.assert_close(got[name], squared_jacobian(net, x, name))
    assert torch.equal(got["tied.weight"], got["again.weight"])


@pytest.mark.parametrize("padding", ["same", "valid", 1])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_convolutions_of_all_paddings(padding: str | int, mode: str) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, (3, 5), padding=padding, padding_mode=mode, groups=2)
    net = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).double()
    x = torch.randn(4, 2, 5, 6, dtype=torch.float64)
    net(x)
    check_exact(net, x)


class Attention(nn.Module):
    """Each position sees all others; tokens in, logits of each position out."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.batch_first = batch_first
        self.embedding = nn.Embedding(7, 4)
        self.q, self.k, self.v, self.head = (nn.Linear(4, n) for n in (4, 4, 4, 3))
        self.double()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        if not self.batch_first:
            x = x.transpose(0, 1)
        q, k, v = self.q(x), self.k(x), self.v(x)
        if not self.batch_first:
            q, k, v = (t.transpose(0, 1) for t in (q, k, v))
        mixed = (q @ k.transpose(1, 2)).softmax(-1) @ v
        y: torch.Tensor = self.head(mixed)
        return y


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_each_position_of_a_sequence_is_a_prediction(frozen: bool) -> None:
    net = Attention()
    tokens = torch.randint(0, 7, (4, 5), generator=torch.Generator().manual_seed(0))
    truth = {f"{n}.weight": squared_jacobian(net, tokens, f"{n}.weight") for n in "qkv"}
    truth["head.weight"] = squared_jacobian(net, tokens, "head.weight")
    # Tokens have no gradients: where all weights are frozen the graph begins at the first layer.
    net.requires_grad_(not frozen)
    exact = hessian_diagonal(net, tokens.split(3))
    estimate = hessian_diagonal(net, [tokens], draws=3000)
    assert exact.keys() == truth.keys()
    for name, value in truth.items():
        assert value.max() > 0
        torch.testing.assert_close(exact[name], value)
        torch.testing.assert_close(estimate[name], value, rtol=0.25, atol=0.05 * value.max())


def test_layers_with_the_samples_in_another_order_are_refused() -> None:
    tokens = torch.randint(0, 7, (5, 5), generator=torch.Generator().manual_seed(0))
    truth = hessian_diagonal(Attention(), [tokens])
    net = Attention(batch_first=False)  # [positions, samples, features], here of equal numbers
    for batch in (tokens, tokens[:4], tokens[:2]):
        with pytest.raises(ValueError, match=r"q\.weight: .*not sorted by sample.*of one sample"):
            hessian_diagonal(net, [batch])
    got = hessian_diagonal(net, tokens.split(1))
    for name, value in truth.items():
        torch.testing.assert_close(got[name], value)


class Folded(nn.Module):
    """Positions are folded into the batch, and one layer has an input that no sample is part of."""

    def __init__(self, query: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.positions = nn.Parameter(torch.randn(6, 4))
        self.of_positions = nn.Linear(4, 4) if query else None
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.fc(x.flatten(0, 1)).relu().view(len(x), -1, 4)
        positions = (
            self.positions if self.of_positions is None else self.of_positions(self.positions)
        )
        y: torch.Tensor = self.head((h * positions).sum(1))
        return y


def test_rows_of_a_sample_are_summed_before_squaring() -> None:
    check_exact(Folded(), torch.randn(6, 6, 4, dtype=torch.float64))


def test_inputs_that_all_samples_share_need_single_samples() -> None:
    net, x = Folded(query=True), torch.randn(6, 6, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"of_positions\.weight: .*not sorted by sample"):
        hessian_diagonal(net, [x])
    check_exact(net, x, batches=6)


OUTPUTS: dict[str, tuple[Any, str]] = {
    "tuple": (lambda y: (y, y), "returns a tuple"),
    "pixels": (lambda y: y[:, :, None, None], r"returns float32 of the shape \[3, 4, 1, 1\]"),
    "scalars": (lambda y: y.sum(1), r"returns float32 of the shape \[3\]"),
    "classes": (lambda y: y.argmax(1, keepdim=True), "returns int64"),
    "nan": (lambda y: y * float("nan"), "returns NaN or infinite logits"),
    "detached": (lambda y: y.detach(), "detaches its outputs"),
}


class Wrapped(nn.Module):
    """A layer, and something done to its outputs."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.fc, self.change = nn.Linear(5, 4), change

    def forward(self, x: torch.Tensor) -> Any:
        return self.change(self.fc(x))


@pytest.mark.parametrize(("change", "message"), OUTPUTS.values(), ids=OUTPUTS.keys())
def test_other_outputs_are_refused(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hessian_diagonal(Wrapped(change), [torch.ones(3, 5)])


def test_logits_may_be_an_attribute() -> None:
    net = Wrapped(lambda y: y)
    expected = hessian_diagonal(net, [torch.ones(3, 5)])["fc.weight"]
    net.change = lambda y: SimpleNamespace(logits=y, loss=None)
    assert torch.equal(hessian_diagonal(net, [torch.ones(3, 5)])["fc.weight"], expected)


class Backbone(nn.Module):
    """Its first layer runs without gradients, or its input is changed after the call."""

    def __init__(self, no_grad: bool) -> None:
        super().__init__()
        self.first, self.head, self.no_grad = nn.Linear(5, 5), nn.Linear(5, 4), no_grad

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(not self.no_grad):
            h = self.first(x)
        if not self.no_grad:
            x.zero_()
        y: torch.Tensor = self.head(h)
        return y


def test_layers_without_gradients_or_input_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"first\.weight: the model runs this layer without grad"):
        hessian_diagonal(Backbone(no_grad=True), [torch.ones(3, 5)])
    with pytest.raises(ValueError, match=r"first\.weight: its input is changed in place"):
        hessian_diagonal(Backbone(no_grad=False), [torch.ones(3, 5)])


def test_layers_that_are_not_called_as_modules_are_left_out() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.head, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)
            self.dead = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.attention(x, x, x, need_weights=False)[0].mean(1)
            self.dead(h)
            y: torch.Tensor = self.head(h)
            return y

    got = hessian_diagonal(Net(), [torch.randn(3, 2, 4)])
    assert got.keys() == {"head.weight", "dead.weight"}
    assert not got["dead.weight"].any()


def test_no_gradients_of_all_samples_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_gradients, "_CHUNK", 20000)
    net = nn.Sequential(nn.Linear(40, 60), nn.ReLU(), nn.Flatten(), nn.Linear(120, 3))
    with LargestTensor() as largest:
        got = hessian_diagonal(net, [torch.randn(64, 2, 40)])
    assert got["0.weight"].max() > 0
    assert largest.size <= 20000 < 64 * 40 * 60


def test_all_is_computed_on_the_device_of_the_model() -> None:
    """Whatever the default device is: a tensor of another one would raise."""
    net, x = small_net(), torch.randn(3, 2, 8, 8, dtype=torch.float64)
    for draws in (None, 5):
        expected = hessian_diagonal(net, [x], draws=draws)
        with torch.device("meta"):
            got = hessian_diagonal(net, [x], draws=draws)
        for name, value in expected.items():
            assert torch.equal(got[name], value)


def test_half_precision_is_summed_in_float32() -> None:
    net = nn.Sequential(nn.Linear(5, 4)).bfloat16()
    got = hessian_diagonal(net, [torch.randn(8, 5).bfloat16()])
    assert got["0.weight"].dtype == torch.float32


@pytest.mark.parametrize("draws", [0, -1])
def test_no_draws_are_refused(draws: int) -> None:
    with pytest.raises(ValueError, match=f"draws={draws}: at least one"):
        hessian_diagonal(small_net(), [], draws=draws)


def test_hutchinson_estimates_the_diagonal_of_any_smooth_loss() -> None:
    torch.manual_seed(0)
    a, b = (nn.Parameter(torch.randn(n, dtype=torch.float64)) for n in (4, 3))
    mixed = torch.randn(7, 7, dtype=torch.float64)
    mixed = mixed + mixed.T
    w = torch.cat([a, b])
    loss = (w @ mixed @ w) / 2 + (w**4).sum()
    draws = 4000
    got = hutchinson_diagonal(loss, {"a": a, "b": b}, draws=draws)
    truth = mixed.diagonal() + 12 * w.detach() ** 2
    deviation = ((mixed**2).sum(1) - mixed.diagonal() ** 2).div(draws).sqrt()
    assert ((torch.cat([got["a"], got["b"]]) - truth).abs() < 5 * deviation).all()


def test_a_frozen_model_and_its_mode_stay_as_they_are() -> None:
    net = small_net().requires_grad_(False).train()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    got = hessian_diagonal(net, [torch.randn(2, 2, 8, 8, dtype=torch.float64)])
    assert net.training
    assert all((t == before[n]).all() for n, t in net.state_dict().items())
    assert all(value.max() > 0 for value in got.values())
    assert not any(module._forward_hooks for module in net.modules())


def test_adam_has_an_importance_after_a_step() -> None:
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    with pytest.raises(ValueError, match=r"w: the optimizer has no second moment"):
        adam_importance(optimizer, {"w": layer.weight})
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(
        adam_importance(optimizer, {"w": layer.weight})["w"], torch.full((2, 3), 0.001**0.5)
    )


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="needs samples"):
        hessian_diagonal(small_net(), [])
