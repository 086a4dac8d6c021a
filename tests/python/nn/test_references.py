"""Layers that a model holds beside torch's registry, in plain attributes."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import WIDTH, two_linears, vectors
from torch import nn

import tersor
from tersor.nn.base import Compressed

Pair = namedtuple("Pair", "first second")

# What an attribute may hold two layers in, and how they are got from it.
HOLDERS: dict[str, tuple[Callable[..., Any], Callable[[Any], tuple[Any, ...]]]] = {
    "list": (lambda a, b: [a, b], tuple),
    "tuple": (lambda a, b: (a, b), tuple),
    "named tuple": (Pair, lambda held: (held.first, held.second)),
    "dict": (lambda a, b: {"a": a, "b": b}, lambda held: tuple(held.values())),
    "nested": (lambda a, b: [{"a": (a, 1)}, [b]], lambda held: (held[0]["a"][0], held[1][0])),
}


class Holding(nn.Module):
    """Calls its layers by way of a plain attribute."""

    def __init__(self, holder: str) -> None:
        super().__init__()
        self.registered = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))
        make, self.get = HOLDERS[holder]
        self.held = make(*self.registered)
        self.__dict__["first"] = self.registered[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.get(self.held):
            x = layer(x)
        return x


def _holds_what_is_registered(model: Any) -> bool:
    held = (*model.get(model.held), model.first)
    registered = (*model.registered, model.registered[0])
    return all(a is b for a, b in zip(held, registered, strict=True))


@pytest.mark.parametrize("holder", HOLDERS)
def test_layers_in_plain_attributes_are_swapped_there_too(holder: str, tmp_path: Path) -> None:
    model, x = Holding(holder), vectors()
    tersor.estimate(model)
    assert _holds_what_is_registered(model)
    assert type(model.first) is nn.Linear
    tersor.compress_(model)
    assert _holds_what_is_registered(model)
    assert isinstance(model.first, Compressed)
    assert torch.equal(model(x), model.registered(x))
    tersor.save(model, tmp_path / "m")
    loaded = tersor.load_model(tmp_path / "m", Holding(holder))
    assert torch.equal(loaded(x), model(x))
    tersor.decompress_(model)
    assert _holds_what_is_registered(model)
    assert type(model.first) is nn.Linear


def test_a_list_stays_the_same_list_and_may_hold_itself() -> None:
    model: Any = two_linears()
    layers: list[Any] = list(model)
    layers.append(layers)
    model.layers = layers
    tersor.compress_(model)
    assert model.layers is layers
    assert isinstance(layers[0], Compressed)
    assert layers[3] is layers


@pytest.mark.parametrize("held", [0, 1])
def test_what_a_list_holds_is_not_fused(held: int) -> None:
    """The activation would be computed twice, or where the layer alone is called."""
    model: Any = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU())
    model.some = [model[held]]
    tersor.fuse_(tersor.compress_(model))
    assert model[0].activation == "none"
    assert type(model[1]) is nn.GELU
