"""Block by block is what runs of the whole model give, with each layer run a few times in all."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from calibration.memory import PeakBytes
from torch import nn

from tersor import LayerConfig
from tersor.calibration import compensation
from tersor.calibration.blocks import BlockRun, Inputs
from tersor.calibration.inputs import evaluating, run
from tersor.calibration.statistics import Accumulator
from tersor.calibration.trace import Block
from tersor.nn.registry import handler_of

WIDTH = 12
SETTINGS = LayerConfig(density=0.5, codebook_size=7)


class Attention(nn.Module):
    """Layers that share an input, and one of the outputs of these."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)
        scores = (q @ k.transpose(1, 2) * scale).softmax(2)
        y: torch.Tensor = self.norm(x + self.out(scores @ v))
        return y


class Stack(nn.Module):
    """Blocks one after another, between other layers."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Attention() for _ in range(depth))
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x, scale=0.5)
        y: torch.Tensor = self.head(x.tanh())
        return y


class Skips(nn.Module):
    """Blocks whose outputs are used again later, as in a U-net."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Attention() for _ in range(3))
        self.up = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = []
        for block in self.blocks:
            x = block(x)
            seen.append(x)
        for layer, before in zip(self.up, seen, strict=False):
            x = layer(torch.cat([x, before], 2))
        return x


class InPlace(nn.Module):
    """Changes what layers and blocks return, and what it gives to them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.ReLU(inplace=True), nn.Linear(WIDTH, WIDTH), nn.ReLU(inplace=True))
                for _ in range(3)
            )
        )
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.blocks(x)
        h += 1
        y: torch.Tensor = self.head(h)
        y -= 1
        return y


class Reused(nn.Module):
    """A block that is called twice, as in ALBERT."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Attention(), Attention()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.blocks[1](self.blocks[0](self.blocks[0](x)))
        return y


class Tuples(nn.Module):
    """A block that returns more than its next input."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Attention()

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.block(x * mask), mask


class Masked(nn.Module):
    """Gives all blocks the same mask."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Tuples() for _ in range(3))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        mask = (torch.arange(x.shape[1]) < 4)[None, :, None].to(x)
        for block in self.blocks:
            x = block(x, mask=mask)[0]
        return {"states": x}


MODELS: dict[str, Callable[[], nn.Module]] = {
    "stack": Stack,
    "skips": Skips,
    "in place": InPlace,
    "reused": Reused,
    "masked": Masked,
    "sequential": lambda: nn.Sequential(
        nn.Linear(WIDTH, WIDTH),
        nn.GELU(),
        nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()),
        nn.Linear(WIDTH, WIDTH),
    ),
}


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[kind]().eval()


def batches() -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    mixing = torch.randn(WIDTH, WIDTH, generator=g)
    return [torch.randn(n, 6, WIDTH, generator=g) @ mixing for n in (5, 3)]


def linears(model: nn.Module) -> dict[nn.Module, str]:
    return {m: name for name, m in model.named_modules() if isinstance(m, nn.Linear)}


@torch.no_grad()
def inputs_of(model: nn.Module, layers: dict[nn.Module, str]) -> dict[nn.Module, list[Any]]:
    """The inputs of all calls of all layers, from runs of the whole model."""
    seen: dict[nn.Module, list[Any]] = {layer: [] for layer in layers}
    handles = [
        layer.register_forward_pre_hook(lambda m, args: seen[m].append(args[0].clone()))
        for layer in layers
    ]
    with evaluating(model):
        for batch in batches():
            run(model, batch)
    for handle in handles:
        handle.remove()
    return seen


@torch.no_grad()
def reference(model: nn.Module) -> None:
    """Each layer after those before it, with inputs from runs of the whole model."""
    layers = linears(model)
    dense = inputs_of(model, layers)
    order: list[nn.Module] = []
    hooks = [m.register_forward_pre_hook(lambda m, _: order.append(m)) for m in layers]
    run(model, batches()[0])
    for hook in hooks:
        hook.remove()
    groups: list[list[nn.Module]] = []
    for layer in dict.fromkeys(order):
        once = len(dense[layer]) == len(batches())
        same = groups and once and torch.equal(dense[groups[-1][0]][0], dense[layer][0])
        groups[-1].append(layer) if same else groups.append([layer])
    for group in groups:
        now = inputs_of(model, layers)
        for layer in group:
            handler = handler_of(layer)
            assert handler is not None
            found = Accumulator(layer, handler)
            once = len(now[layer]) == len(batches())
            for x, before in zip(now[layer], dense[layer], strict=True):
                found.add(x, before if once and order[0] is not layer else None)
            statistics = found.result("")
            assert statistics is not None
            compensation.compensate_layer_(layer, statistics, SETTINGS)


@pytest.mark.parametrize("kind", MODELS)
def test_blocks_give_what_runs_of_the_whole_model_give(kind: str) -> None:
    model, expected = made(kind), made(kind)
    settings = {layer: (name, SETTINGS) for layer, name in linears(model).items()}
    reached = compensation.compensate_(model, batches(), settings)
    reference(expected)
    assert reached.keys() == settings.keys()
    for (name, a), b in zip(model.named_parameters(), expected.parameters(), strict=True):
        # Rounding may give a weight another entry of the codebook now and then.
        assert float((a - b).abs().mean()) <= 0.02 * float(b.abs().mean()), name


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[int]]:
    """How many products with each weight are computed."""
    counts: Counter[int] = Counter()
    linear = F.linear

    def count(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        counts[id(weight)] += 1
        return linear(x, weight, bias)

    with monkeypatch.context() as patch:
        patch.setattr(F, "linear", count)
        yield counts


@pytest.mark.parametrize("depth", [2, 6])
def test_each_layer_runs_three_times_for_each_batch_at_any_depth(
    monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    torch.manual_seed(0)
    model = Stack(depth).eval()
    settings = {layer: (name, SETTINGS) for layer, name in linears(model).items()}
    data = [torch.randn(2, 6, WIDTH) for _ in range(4)]
    with counted(monkeypatch) as counts:
        compensation.compensate_(model, data, settings)
    assert set(counts) == {id(layer.weight) for layer in settings}
    # A trace, the dense and the compressed network; one batch more checks that blocks chain.
    assert max(counts.values()) <= 3 * len(data) + 1


@pytest.mark.parametrize(
    ("kind", "links"),
    [("stack", 2), ("skips", 0), ("in place", 8), ("masked", 2), ("sequential", 4)],
)
def test_blocks_are_linked_only_where_nothing_else_uses_their_outputs(
    kind: str, links: int
) -> None:
    model = made(kind)
    plan = BlockRun(model, Inputs(batches()), linears(model), {}).plan
    assert sum(isinstance(item, Block) and item.follows is not None for item in plan) == links


def test_layers_with_one_input_share_their_statistics() -> None:
    model = made("stack")
    groups: list[list[str]] = []
    names = linears(model)

    def take(group: Any, found: Any) -> None:
        groups.append([names[layer] for layer in group.layers])
        assert len({id(statistics) for statistics in found.values()}) == 1

    BlockRun(model, Inputs(batches()), names, {}).each_group(take)
    block = [["query", "key", "value"], ["out"]]
    expected = [[f"blocks.{i}.{n}" for n in part] for i in range(3) for part in block]
    assert groups == [["first"], *expected, ["head"]]


def test_forwards_are_restored_after_an_error() -> None:
    model = made("stack")

    def fail(group: Any, found: Any) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        BlockRun(model, Inputs(batches()), linears(model), {}).each_group(fail)
    assert not any("forward" in module.__dict__ for module in model.modules())


class Experts(nn.Module):
    """A mixture of experts: which of them run goes by the input."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, which: int) -> torch.Tensor:
        y: torch.Tensor = self.head(self.experts[which](x).relu())
        return y


def test_layers_that_some_batches_reach_have_the_statistics_of_these() -> None:
    torch.manual_seed(0)
    model = Experts()
    names = linears(model)
    data = [(x, which) for x, which in zip(batches() * 2, (0, 2, 2, 0), strict=True)]
    counts: dict[str, int] = {}

    def take(group: Any, found: Any) -> None:
        counts.update((names[layer], statistics.count) for layer, statistics in found.items())

    BlockRun(model, Inputs(data), names, {}).each_group(take)
    assert counts == {"experts.0": 8 * 6, "experts.2": 8 * 6, "head": 16 * 6}


def test_padding_does_not_count() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.fc(x)
            return y

    model, x = Tokens(), batches()[0]
    mask = torch.arange(6)[None] < torch.tensor([[6], [1], [2], [3], [4]])
    found: dict[nn.Module, Any] = {}
    data = [{"x": x, "attention_mask": mask.long()}]
    BlockRun(model, Inputs(data), {model.fc: "fc"}, {}).each_group(
        lambda _, statistics: found.update(statistics)
    )
    assert found[model.fc].count == 16
    assert torch.allclose(found[model.fc].mean[0], x[mask].mean(0), atol=1e-5)


def test_another_way_to_run_the_model_is_taken() -> None:
    model = made("stack")
    other = copy.deepcopy(model)
    settings = {layer: (name, SETTINGS) for layer, name in linears(model).items()}
    compensation.compensate_(model, batches(), settings)
    named = {layer: (name, SETTINGS) for layer, name in linears(other).items()}
    data = [{"labels": 3, "pixels": x} for x in batches()]
    compensation.compensate_(other, data, named, forward_fn=lambda m, b: m(b["pixels"]))
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_memory_is_that_of_a_block_at_any_depth() -> None:
    peaks = []
    for depth in (2, 12):
        torch.manual_seed(0)
        model = Stack(depth).eval()
        data = [torch.randn(16, 32, WIDTH) for _ in range(4)]
        with PeakBytes() as memory:
            BlockRun(model, Inputs(data), linears(model), {}).each_group(lambda *_: None)
        peaks.append(memory.peak)
    own = 4 * 16 * 32 * WIDTH * 4  # bytes of what one layer makes of all inputs
    # Inputs, outputs of four layers and of the block in both networks, and what runs at the moment.
    assert peaks[1] < 20 * own
    assert peaks[1] < 1.1 * peaks[0]
