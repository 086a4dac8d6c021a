"""Trained codebooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersor.quantizers.base import Quantized
from tersor.training import codebooks
from tersor.training.codebooks import SharedWeights


def test_shared_gradients_are_those_of_the_look_up() -> None:
    layer = nn.Linear(9, 7)
    with torch.no_grad():
        layer.weight[layer.weight.abs() < 0.1] = 0
    zeros = layer.weight == 0
    shared = SharedWeights({"w": layer.weight}, 4)
    x = torch.randn(5, 9)
    layer(x).square().sum().backward()
    shared.gather_gradients()
    codebook = shared.codebooks["w"].detach().clone().requires_grad_()
    F.linear(x, codebook[shared.codes["w"]], layer.bias).square().sum().backward()
    assert codebook.grad is not None
    found = shared.codebooks["w"].grad
    assert found is not None
    assert torch.allclose(found[1:], codebook.grad[1:], rtol=1e-4)
    torch.optim.SGD(shared.codebooks.values(), lr=0.01).step()
    shared.write()
    assert torch.equal(layer.weight == 0, zeros)
    assert len(layer.weight.unique()) <= 5


def test_each_name_needs_codes_or_a_codebook_size() -> None:
    with pytest.raises(ValueError, match=r"no codes and no codebook size are given for \['w'\]"):
        SharedWeights({"w": nn.Linear(3, 2).weight}, {"v": 4})


def test_weights_of_other_float_types_have_codebooks_too() -> None:
    layer = nn.Linear(9, 7).to(torch.bfloat16)
    shared = SharedWeights({"w": layer.weight}, 4)
    layer(torch.randn(5, 9, dtype=torch.bfloat16)).sum().backward()
    shared.gather_gradients()
    torch.optim.SGD(shared.codebooks.values(), lr=0.01).step()
    shared.write()
    assert layer.weight.dtype == torch.bfloat16
    assert len(layer.weight.unique()) <= 4


def test_given_codes_are_not_chosen_again(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = nn.Parameter(torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 4.0]]))
    codes = np.array([[0, 1, 1], [2, 0, 2]], np.uint8)
    given = Quantized(codes, np.array([1.5, 3.5], np.float32))
    monkeypatch.setattr(codebooks, "quantize_kmeans", None)
    shared = SharedWeights({"w": weight}, {"w": given})
    assert shared.codes["w"].tolist() == codes.tolist()
    assert weight.tolist() == [[0.0, 1.5, 1.5], [3.5, 0.0, 3.5]]
    for bad, words in (
        (np.zeros((3, 2), np.uint8), r"w: the codes have shape \(3, 2\), expected \(2, 3\)"),
        (codes + 1, "w: codes are 1 to 3, but the codebook has 3 entries"),
    ):
        with pytest.raises(ValueError, match=words):
            SharedWeights({"w": weight}, {"w": Quantized(bad.astype(np.uint8), given.values)})


def trained_layer(seed: int, attach: bool) -> tuple[nn.Linear, SharedWeights]:
    torch.manual_seed(seed)
    layer = nn.Linear(9, 7)
    shared = SharedWeights({"w": layer.weight}, 4)
    optimizer = torch.optim.Adam([*shared.codebooks.values(), layer.bias], lr=0.05)
    handles = shared.attach(optimizer) if attach else []
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        layer.zero_grad()
        layer(torch.randn(5, 9, generator=generator)).square().sum().backward()
        if not attach:
            shared.gather_gradients()
        optimizer.step()
        if not attach:
            shared.write()
    for handle in handles:
        handle.remove()
    return layer, shared


def test_attached_to_an_optimizer_the_codebooks_are_trained() -> None:
    attached, _ = trained_layer(3, attach=True)
    by_hand, shared = trained_layer(3, attach=False)
    assert torch.equal(attached.weight, by_hand.weight)
    assert torch.equal(by_hand.weight, shared.codebooks["w"][shared.codes["w"]])


def test_codes_and_codebooks_go_through_a_checkpoint() -> None:
    layer, shared = trained_layer(0, attach=True)
    other = nn.Linear(9, 7)
    resumed = SharedWeights({"w": other.weight}, 4)
    trained = resumed.codebooks["w"]
    resumed.load_state_dict(shared.state_dict())
    assert torch.equal(other.weight, layer.weight)
    assert resumed.codebooks["w"] is trained
    assert torch.equal(resumed.codes["w"], shared.codes["w"])

    larger = SharedWeights({"w": other.weight}, 2)
    trained = larger.codebooks["w"]
    larger.load_state_dict(shared.state_dict())
    assert larger.codebooks["w"] is trained
    assert torch.equal(trained, shared.codebooks["w"])


def test_a_state_of_other_layers_replaces_nothing() -> None:
    layer, shared = trained_layer(0, attach=True)
    before = layer.weight.detach().clone()
    state = shared.state_dict()
    for bad, words in (
        ({}, r"missing codes in state_dict: \['w'\]"),
        ({"codes": state["codes"]}, r"missing codebooks in state_dict: \['w'\]"),
        (
            {"codes": {"w": torch.zeros(3, 3)}, "codebooks": state["codebooks"]},
            r"w: the codes have shape \(3, 3\), expected \(7, 9\)",
        ),
        (
            {"codes": state["codes"], "codebooks": {"w": torch.zeros(2)}},
            "w: codes are 1 to 4, but the codebook has 2 entries",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            shared.load_state_dict(bad)
    assert torch.equal(layer.weight, before)
