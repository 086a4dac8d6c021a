from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

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
    names = [n for n, p in net.named_parameters() if p.dim() > 1]
    made = {}
    for name in names:
        weight = dict(net.named_parameters())[name].detach()

        def loss(w, name=name):
            scores = torch.func.functional_call(net, {name: w}, (x,))
            # Any labels: they do not enter the second derivative.
            return F.cross_entropy(scores, torch.arange(len(x)) % 4)

        hessian = torch.autograd.functional.hessian(loss, weight)
        made[name] = hessian.reshape(weight.numel(), -1).diagonal().view(weight.shape)
    return made


def test_exact_diagonal_is_that_of_autograd():
    net = small_net()
    x = torch.randn(6, 2, 8, 8, dtype=torch.float64)
    truth = true_diagonal(net, x)
    got = hessian_diagonal(net, x.split(4))
    assert got.keys() == truth.keys()
    for name, value in truth.items():
        assert value.abs().max() > 0
        torch.testing.assert_close(got[name], value)


def test_draws_estimate_the_same():
    net = small_net()
    x = torch.randn(6, 2, 8, 8, dtype=torch.float64)
    exact = hessian_diagonal(net, [x])
    estimate = hessian_diagonal(net, [x], draws=3000)
    for name, value in exact.items():
        torch.testing.assert_close(estimate[name], value, rtol=0.25, atol=0.05 * value.max())


def test_sequences_go_through_linear_layers():
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 4)).double()
    x = torch.randn(5, 4, 3, dtype=torch.float64)
    for name, value in true_diagonal(net, x).items():
        torch.testing.assert_close(hessian_diagonal(net, [x])[name], value)


def test_hutchinson_estimates_the_diagonal_of_any_smooth_loss():
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


def test_a_frozen_model_and_its_mode_stay_as_they_are():
    net = small_net().requires_grad_(False).train()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    got = hessian_diagonal(net, [torch.randn(2, 2, 8, 8, dtype=torch.float64)])
    assert net.training
    assert all((t == before[n]).all() for n, t in net.state_dict().items())
    assert all(value.max() > 0 for value in got.values())
    assert not any(module._forward_hooks for module in net.modules())


def test_adam_has_an_importance_after_a_step():
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    with pytest.raises(ValueError, match=r"w: the optimizer has no second moment"):
        adam_importance(optimizer, {"w": layer.weight})
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(
        adam_importance(optimizer, {"w": layer.weight})["w"], torch.full((2, 3), 0.001**0.5)
    )


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="needs samples"):
        hessian_diagonal(small_net(), [])
