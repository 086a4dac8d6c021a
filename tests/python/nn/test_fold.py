"""Which norms are found and folded, and that the model computes the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.nn.fold import Pair, find_pairs, fold, folded


def _norm(kind: Any, channels: int, **options: Any) -> Any:
    norm = kind(channels, **options)
    if norm.running_mean is not None:
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


CASES: list[tuple[Any, Any, tuple[int, ...]]] = [
    (lambda b: nn.Linear(6, 8, bias=b), nn.BatchNorm1d, (5, 6)),
    (lambda b: nn.Conv1d(6, 8, 3, bias=b), nn.BatchNorm1d, (2, 6, 9)),
    (lambda b: nn.Conv2d(6, 8, 3, groups=2, bias=b), nn.BatchNorm2d, (2, 6, 5, 5)),
    (lambda b: nn.Conv3d(6, 8, 2, bias=b), nn.BatchNorm3d, (2, 6, 3, 3, 3)),
    (lambda b: nn.ConvTranspose1d(6, 8, 3, groups=2, bias=b), nn.BatchNorm1d, (2, 6, 9)),
    (lambda b: nn.ConvTranspose2d(6, 8, 3, stride=2, bias=b), nn.BatchNorm2d, (2, 6, 5, 5)),
    (lambda b: nn.ConvTranspose3d(6, 8, 2, bias=b), nn.BatchNorm3d, (2, 6, 3, 3, 3)),
]


@pytest.mark.parametrize(("layer", "norm", "shape"), CASES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_a_folded_layer_does_what_both_did(
    layer: Any, norm: Any, shape: tuple[int, ...], bias: bool, affine: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(layer(bias), _norm(norm, 8, affine=affine)).eval()
    before = (model[0].weight, model[0].bias)
    x = torch.randn(shape)
    expected = model(x)
    pairs, how = find_pairs(model)
    assert how == "traced"
    assert pairs == [Pair(model[0], model[1])]
    with folded(pairs):
        assert torch.allclose(model[0](x), expected, atol=1e-5)
        assert torch.equal(model(x), model[0](x))
    assert (model[0].weight, model[0].bias) == before
    assert torch.equal(model(x), expected)


class Branching(nn.Module):
    """A layer whose output a norm and something else read, one that runs twice, and one alone."""

    def __init__(self, traceable: bool = True) -> None:
        super().__init__()
        self.traceable = traceable
        self.shared, self.shared_norm = nn.Linear(8, 8), _norm(nn.BatchNorm1d, 8)
        self.twice, self.twice_norm = nn.Linear(8, 8), _norm(nn.BatchNorm1d, 8)
        self.alone, self.alone_norm = nn.Linear(8, 8), _norm(nn.BatchNorm1d, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.traceable and x.sum() > 1e9:
            return x
        y = self.shared(x)
        x = F.relu(self.shared_norm(y)) + y
        x = self.twice_norm(self.twice(self.twice(x)))
        return self.alone_norm(self.alone(x))


def test_only_norms_that_alone_read_a_layer_are_found_by_tracing() -> None:
    model = Branching().eval()
    assert find_pairs(model) == ([Pair(model.alone, model.alone_norm)], "traced")


def test_the_same_is_found_by_running() -> None:
    torch.manual_seed(0)
    model = Branching(traceable=False).eval()
    x = torch.randn(5, 8)
    expected = model(x)
    pairs, how = find_pairs(model, lambda changed: changed(x))
    assert (pairs, how) == ([Pair(model.alone, model.alone_norm)], "recorded")
    assert torch.equal(model(x), expected)
    assert not model.alone._forward_hooks
    assert not model.alone_norm._forward_pre_hooks
    pairs, how = find_pairs(model)
    assert pairs == []
    assert how.startswith("torch.fx cannot trace the model (")


@pytest.mark.parametrize("what", ["no statistics", "hook", "tied", "functional"])
def test_what_cannot_be_folded_is_left(what: str) -> None:
    norm = _norm(nn.BatchNorm1d, 8, track_running_stats=what != "no statistics")
    model: Any = nn.Sequential(nn.Linear(8, 8), norm, nn.Linear(8, 8)).eval()
    if what == "hook":
        model[0].register_forward_hook(lambda *_: None)
    elif what == "tied":
        model[2].weight = model[0].weight
    elif what == "functional":
        model[0].forward = lambda x: 2 * x
    assert find_pairs(model)[0] == []


def test_gradients_are_asked_for_as_before() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 8, bias=False), _norm(nn.BatchNorm1d, 8)).eval()
    model[0].weight.requires_grad_(False)
    restore = fold(Pair(model[0], model[1]))
    assert not model[0].weight.requires_grad
    assert not model[0].bias.requires_grad
    restore(Pair(model[0], model[1]))
    assert model[0].bias is None
