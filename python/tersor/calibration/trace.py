"""Which layers and blocks of a model run, in what order, and what hangs together.

One pass over the data records the calls: of *layers*, which hold the matrices, and of *blocks*, the
children of ``nn.ModuleList`` and ``nn.Sequential``. A block that a batch calls at most once, and
that alone calls the layers in it, can be run by itself from its inputs.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tersor.calibration.inputs import first_tensor, given_input, parts_of
from tersor.ops.torch_internals import version_of

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def holds_matrices(module: nn.Module) -> bool:
    """Whether parameters of a module's own have two dimensions or more; tables do not count."""
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return False
    return any(p is not None and p.dim() >= 2 for p in module._parameters.values())


def layers_within(module: nn.Module) -> list[nn.Module]:
    """The modules of the lowest level that hold matrices."""
    heavy = [m for m in module.modules() if holds_matrices(m)]
    inner = {m for m in heavy for below in m.modules() if below is not m and holds_matrices(below)}
    return [m for m in heavy if m not in inner]


def candidate_blocks(model: nn.Module) -> list[nn.Module]:
    """The children of the outermost lists; one that holds most of the model is looked into."""
    weights = sum(p.numel() for p in model.parameters())

    def below(module: nn.Module) -> Iterator[nn.Module]:
        is_list = isinstance(module, (nn.ModuleList, nn.Sequential))
        for child in module.children():
            most = 2 * sum(p.numel() for p in child.parameters()) > weights
            lists = any(isinstance(m, (nn.ModuleList, nn.Sequential)) for m in child.modules())
            if not is_list or (lists and (most or isinstance(child, _LISTS))):
                yield from below(child)
            else:
                yield child

    return list(dict.fromkeys(below(model)))


_LISTS = (nn.ModuleList, nn.Sequential)


@dataclass(eq=False)
class Trace:
    """What a model calls.

    Attributes:
        order: layers and blocks, each after those that are called before it in any batch; where
            batches disagree, an earlier one decides.
        calls: the most calls of each in a batch.
        parents: the blocks that call a layer; None for calls outside any.
        same_input: by layer, the one called just before it that always has the same input.
        follows: by block, the one whose output is its input, all else being given alike.
    """

    order: list[nn.Module] = field(default_factory=list)
    calls: dict[nn.Module, int] = field(default_factory=lambda: defaultdict(int))
    parents: dict[nn.Module, set[nn.Module | None]] = field(
        default_factory=lambda: defaultdict(set)
    )
    same_input: dict[nn.Module, nn.Module | None] = field(default_factory=dict)
    follows: dict[nn.Module, nn.Module | None] = field(default_factory=dict)


class Recorder:
    """Hooks that record a trace."""

    def __init__(self, layers: Iterable[nn.Module], blocks: Iterable[nn.Module]) -> None:
        self.trace, self.layers, self.blocks = Trace(), set(layers), set(blocks)
        self._start()

    def _start(self) -> None:
        self.counts: dict[nn.Module, int] = defaultdict(int)
        self.block: nn.Module | None = None
        self.layer: nn.Module | None = None
        self.input: Callable[[], Any] = _nothing
        self.version = 0
        self.last: nn.Module | None = None  # block
        self.others: list[Any] = []
        self.output: Callable[[], Any] = _nothing

    def end_batch(self) -> None:
        """Adds the calls of a batch to the trace."""
        place = 0
        for module, count in self.counts.items():
            self.trace.calls[module] = max(count, self.trace.calls[module])
            if module not in self.trace.order:
                self.trace.order.insert(place, module)
            place = self.trace.order.index(module) + 1
        self._start()

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook of layers and blocks."""
        if module in self.blocks:
            self._before_block(module, args, kwargs)
            if module not in self.layers:
                self.counts[module] += 1
                return
        x = given_input(module, args, kwargs)
        if not isinstance(x, torch.Tensor) or not x.numel():
            return
        same = self.input() is x and version_of(x) == self.version
        _agree(self.trace.same_input, module, self.layer if same else None)
        self.layer, self.input, self.version = module, weakref.ref(x), version_of(x)
        self.trace.parents[module].add(self.block)
        self.counts[module] += 1

    def _before_block(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.block = block
        x = first_tensor((args, kwargs))
        others = [part for part in parts_of((args, kwargs)) if part is not x]
        alike = len(others) == len(self.others) and all(map(_same, others, self.others))
        linked = alike and x is not None and self.output() is x
        _agree(self.trace.follows, block, self.last if linked else None)
        self.last, self.others = block, others

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A forward hook of blocks."""
        self.block = None
        x = first_tensor(output)
        self.output = _nothing if x is None else weakref.ref(x)


def _nothing() -> None:
    return None


def _same(a: Any, b: Any) -> bool:
    """Whether two parts of arguments are one; plain values count as such where they are equal."""
    plain = (bool, int, float, str, torch.dtype, torch.device)
    return a is b or (type(a) is type(b) and isinstance(a, plain) and a == b)


def _agree(
    found: dict[nn.Module, nn.Module | None], module: nn.Module, other: nn.Module | None
) -> None:
    """Keeps what all calls of a module have in common."""
    if found.setdefault(module, other) is not other:
        found[module] = None


@contextmanager
def recorded(layers: Iterable[nn.Module], blocks: Iterable[nn.Module] = ()) -> Iterator[Recorder]:
    """Hooks on layers and blocks within the ``with`` statement."""
    layers, blocks = list(layers), list(blocks)
    recorder = Recorder(layers, blocks)
    modules = dict.fromkeys([*layers, *blocks])
    handles = [m.register_forward_pre_hook(recorder.before, with_kwargs=True) for m in modules]
    handles += [m.register_forward_hook(recorder.after, with_kwargs=True) for m in blocks]
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def numbered(model: nn.Module, trace: Trace) -> dict[str, Any]:
    """A trace with the numbers of modules in their places, so that it can go to other processes."""
    number: dict[Any, int | None] = {module: i for i, module in enumerate(model.modules())}
    number[None] = None
    return {
        "order": [number[m] for m in trace.order],
        "calls": {number[m]: count for m, count in trace.calls.items()},
        "parents": {number[m]: [number[p] for p in own] for m, own in trace.parents.items()},
        "same_input": {number[m]: number[other] for m, other in trace.same_input.items()},
        "follows": {number[m]: number[other] for m, other in trace.follows.items()},
    }


def united(model: nn.Module, traces: Iterable[Mapping[str, Any]]) -> Trace:
    """What several processes traced, as if one had traced all batches."""
    modules: dict[int | None, Any] = dict(enumerate(model.modules()))
    modules[None] = None
    made = Trace()
    for trace in traces:
        place = 0
        for number in trace["order"]:
            module = modules[number]
            if module not in made.order:
                made.order.insert(place, module)
            place = made.order.index(module) + 1
        for number, count in trace["calls"].items():
            made.calls[modules[number]] = max(count, made.calls[modules[number]])
        for number, parents in trace["parents"].items():
            made.parents[modules[number]].update(modules[p] for p in parents)
        for name in ("same_input", "follows"):
            for number, other in trace[name].items():
                _agree(getattr(made, name), modules[number], modules[other])
    return made


@dataclass(eq=False)
class Group:
    """Layers that are quantized together.

    Attributes:
        layers: in the order of their calls.
        direct: whether each is called at most once, and all with the same input; otherwise, as
            where they share a weight, the inputs of all their calls are gathered.
    """

    layers: list[nn.Module]
    direct: bool = True


@dataclass(eq=False)
class Block:
    """A part of a model that runs by itself.

    Attributes:
        module: what is run.
        groups: of its layers, in order.
        follows: the block before it whose output is its input, or None.
    """

    module: nn.Module
    groups: list[Group]
    follows: nn.Module | None = None


def plan_of(
    trace: Trace, blocks: Sequence[nn.Module], ties: Mapping[nn.Module, Sequence[nn.Module]]
) -> list[Block | Group]:
    """What is run and quantized one after another.

    Args:
        trace: of all batches.
        blocks: candidates.
        ties: by layer, all layers that share its weight.
    """
    inside: dict[nn.Module, list[nn.Module]] = {block: [] for block in blocks}
    for layer, parents in trace.parents.items():
        for parent in parents:
            if parent is not None:
                inside[parent].append(layer)

    def whole(block: nn.Module) -> bool:
        alone = all(trace.parents[layer] == {block} for layer in inside[block])
        tied = {other for layer in inside[block] for other in ties.get(layer, ())}
        known = tied & trace.calls.keys()
        return trace.calls[block] == 1 and alone and known <= set(inside[block])

    kept = [block for block in blocks if trace.calls.get(block) and whole(block)]
    within = {layer for block in kept for layer in inside[block]}
    plan: list[Block | Group] = []
    loose: list[nn.Module] = []
    for module in trace.order:
        if module in kept:
            plan += _groups(loose, trace, ties)
            loose = []
            follows = trace.follows.get(module)
            groups = _groups([m for m in trace.order if m in inside[module]], trace, ties)
            plan.append(Block(module, groups, follows))
        elif module not in within and module in trace.parents:
            loose.append(module)
    plan += _groups(loose, trace, ties)
    return _without_repeats(plan)


def _groups(
    layers: Sequence[nn.Module], trace: Trace, ties: Mapping[nn.Module, Sequence[nn.Module]]
) -> list[Group]:
    groups: list[Group] = []
    for layer in layers:
        tied = [other for other in ties.get(layer, (layer,)) if other in trace.calls]
        if trace.calls[layer] > 1 or len(tied) > 1:
            groups.append(Group(sorted(tied, key=trace.order.index), direct=False))
            continue
        before = trace.same_input.get(layer)
        if groups and groups[-1].direct and before is groups[-1].layers[-1]:
            groups[-1].layers.append(layer)
        else:
            groups.append(Group([layer]))
    return groups


def _without_repeats(plan: list[Block | Group]) -> list[Block | Group]:
    """Tied layers are one group, at the first of their places."""
    seen: set[nn.Module] = set()

    def new(group: Group) -> bool:
        found = not seen.issuperset(group.layers)
        seen.update(group.layers)
        return found

    made: list[Block | Group] = []
    for item in plan:
        if isinstance(item, Block):
            item.groups = [group for group in item.groups if new(group)]
            made.append(item)
        elif new(item):
            made.append(item)
    return made
