"""A model block by block, in the dense network and in the one that is being compressed.

What the model does up to a block is done once for each batch: the inputs of the block are kept, and
so are the outputs of the layers in it that are done (:mod:`tersor.calibration.stops`). Each layer
runs twice in all, once with dense and once with compressed weights; time grows with the depth of
the network, and memory with the inputs and outputs of the layers of one block. A block whose input
is the output of the one before it takes it from there; the model itself runs to the others.

Where a chain of blocks is left, only its last output is kept, as long as that is all that the rest
of the model uses: a run in which the others are NaN tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tersor.calibration.inputs import (
    Batch,
    ForwardFunction,
    copied,
    evaluating,
    first_tensor,
    input_of,
    mapped,
    parts_of,
    run,
)
from tersor.calibration.statistics import Accumulator, InputStatistics, supported, trace_of
from tersor.calibration.stops import Stops
from tersor.calibration.trace import (
    Arguments,
    Block,
    Group,
    candidate_blocks,
    layers_within,
    plan_of,
)
from tersor.nn.wrappers import wrapper_prefix

Found = dict[nn.Module, InputStatistics]


@dataclass(frozen=True)
class Inputs:
    """Calibration inputs, and how the model takes them.

    Attributes:
        batches: in order.
        forward_fn: ``(model, batch)``, or None.
    """

    batches: Sequence[Batch]
    forward_fn: ForwardFunction | None = None

    def padding(self, number: int) -> torch.Tensor | None:
        """Which tokens of a batch are no padding, bool ``[samples, tokens]``; None = unknown."""
        batch = self.batches[number]
        mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
        return mask.bool() if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None


@dataclass(eq=False)
class _Stream:
    """What is known of one of the two networks within a part of the model, batch by batch.

    Attributes:
        call: runs the part for a batch.
        known: by batch, outputs of the stops that are done.
    """

    call: Callable[[int], Any]
    known: list[dict[nn.Module, Any]]


@dataclass(eq=False)
class _Part:
    """The model, or a block of it: its stops, in the dense and in the compressed network."""

    stops: Stops
    dense: _Stream
    compressed: _Stream

    @property
    def streams(self) -> tuple[_Stream, _Stream]:
        return self.dense, self.compressed


class BlockRun:
    """Runs a model block by block while its layers are compressed.

    Args:
        model: in any mode; is run in evaluation mode.
        inputs: calibration inputs.
        names: of the layers whose inputs are asked for.
        ties: by layer, all layers that share its weight.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        names: Mapping[nn.Module, str],
        ties: Mapping[nn.Module, Sequence[nn.Module]],
    ) -> None:
        self.model, self.inputs, self.names = model, inputs, names
        self.handlers = {layer: supported(layer, name) for layer, name in names.items()}
        body = model.get_submodule(wrapper_prefix(model).rstrip("."))
        layers = list(dict.fromkeys([*layers_within(body), *names]))
        blocks = [] if body in layers else candidate_blocks(body)
        trace, output = trace_of(model, layers, blocks, inputs.batches, inputs.forward_fn)
        self.plan = plan_of(trace, blocks, ties)
        self._check_chains(output)
        self.changed = False
        # Dense weights of layers that are done but run on, as where they are called twice.
        self.live: dict[nn.Parameter, tuple[torch.Tensor, torch.Tensor]] = {}

    @torch.no_grad()
    def each_group(self, quantize: Callable[[Group, Found], None]) -> None:
        """Calls a function with each group of layers and the statistics of those that are reached.

        The function may change the weights, which the later layers then have the results of.

        Raises:
            ValueError: an input is not finite; the message has the name of the layer.
        """
        stops = Stops(
            dict.fromkeys(
                module
                for item in self.plan
                for module in ([item.module] if isinstance(item, Block) else item.layers)
            )
        )
        with evaluating(self.model), stops.installed():
            part = self._part(stops, lambda _: self._run_model, len(self.inputs.batches))
            before: _Chain | None = None
            for item in self.plan:
                if isinstance(item, Group):
                    self._do_group(part, item, quantize)
                    before = None
                else:
                    before = self._do_block(part, item, before, quantize)

    @torch.no_grad()
    def _check_chains(self, expected: Any) -> None:
        """Links no blocks where the model, run by its chains for a batch, gives something else.

        Each block gets the output of the one before it, of which the model itself sees NaN.

        Args:
            expected: what the model returns for the first batch.
        """
        pairs = zip(self.plan, self.plan[1:], strict=False)
        inner = [a.module for a, b in pairs if isinstance(a, Block) and _links(a, b)]
        blocks = [item for item in self.plan if isinstance(item, Block)]
        if not inner:
            return
        carried: list[Any] = []
        stops = Stops(block.module for block in blocks)
        linked = {block.module for block in blocks if block.follows in inner}

        def run_block(module: nn.Module, args: Any, kwargs: Any) -> Any:
            if module in linked:
                args, kwargs = _replaced((args, kwargs), carried.pop())
            output = stops.original[module](*args, **kwargs)
            if module not in inner:
                return output
            carried.append(output)
            return copied(_blank(output))

        with evaluating(self.model), stops.replaced(run_block):
            found = self._run_model(0)
        if not _equal(expected, found):
            for block in blocks:
                block.follows = None

    def _run_model(self, number: int) -> Any:
        return run(self.model, self.inputs.batches[number], self.inputs.forward_fn)

    def _part(
        self, stops: Stops, call_of: Callable[[int], Callable[[int], Any]], batches: int
    ) -> _Part:
        dense, compressed = (_Stream(call_of(i), [{} for _ in range(batches)]) for i in range(2))
        return _Part(stops, dense, compressed)

    def _do_block(
        self,
        model: _Part,
        block: Block,
        before: _Chain | None,
        quantize: Callable[[Group, Found], None],
    ) -> _Chain:
        batches = len(self.inputs.batches)
        linked = before is not None and before.module is block.follows  # as _links
        if linked:
            assert before is not None
            arguments = before.next_arguments()
        else:
            arguments = self._arguments(model, block.module)
        inner = Stops(dict.fromkeys(layer for group in block.groups for layer in group.layers))
        forward = model.stops.original[block.module]

        def call_of(stream: int) -> Callable[[int], Any]:
            def call(number: int) -> Any:
                given = arguments[stream][number]
                if given is None:
                    return None
                args, kwargs = copied(given)
                if block.module in inner.original:
                    return block.module.forward(*args, **kwargs)
                return forward(*args, **kwargs)

            return call

        with inner.installed():
            part = self._part(inner, call_of, batches)
            for group in block.groups:
                self._do_group(part, group, quantize)
            outputs = [
                [self._finish(part, stream, number) for number in range(batches)]
                for stream in part.streams
            ]
        for stream, made in zip(model.streams, outputs, strict=True):
            for number, output in enumerate(made):
                if arguments[0][number] is not None:
                    stream.known[number][block.module] = output
        if linked:
            assert before is not None
            for known in (*model.dense.known, *model.compressed.known):
                known[before.module] = _blank(known.get(before.module))
        return _Chain(block.module, arguments, outputs)

    def _arguments(self, part: _Part, module: nn.Module) -> list[list[Arguments | None]]:
        """Of the call of a stop: by stream, by batch."""
        found: list[list[Arguments | None]] = [[], []]
        for number in range(len(self.inputs.batches)):
            for stream, own in zip(part.streams, found, strict=True):
                own.append(self._reach(part, stream, number, module))
        return found

    def _reach(
        self, part: _Part, stream: _Stream, number: int, *wanted: nn.Module
    ) -> Arguments | None:
        with self._weights_of(part, stream):
            reached, _ = part.stops.run(lambda: stream.call(number), stream.known[number], wanted)
        return reached

    def _finish(self, part: _Part, stream: _Stream, number: int) -> Any:
        with self._weights_of(part, stream):
            _, output = part.stops.run(lambda: stream.call(number), stream.known[number])
        return output

    @contextmanager
    def _weights_of(self, part: _Part, stream: _Stream) -> Iterator[None]:
        """Layers that run on have dense weights in the dense network."""
        with ExitStack() as stack:
            if stream is part.dense:
                for parameter, (dense, compressed) in self.live.items():
                    parameter.data = dense
                    stack.callback(setattr, parameter, "data", compressed)
            yield

    # ---- Groups

    def _do_group(
        self, part: _Part, group: Group, quantize: Callable[[Group, Found], None]
    ) -> None:
        if group.direct:
            self._do_direct(part, group, quantize)
        else:
            self._do_observed(part, group, quantize)
        self.changed = self.changed or any(layer in self.names for layer in group.layers)

    def _do_direct(
        self, part: _Part, group: Group, quantize: Callable[[Group, Found], None]
    ) -> None:
        """Layers with one input, each called once."""
        first = group.layers[0]
        chosen = next((layer for layer in group.layers if layer in self.names), None)
        found = None if chosen is None else Accumulator(chosen, self.handlers[chosen])
        kept: list[Arguments | None] = []
        for number in range(len(self.inputs.batches)):
            dense = self._reach(part, part.dense, number, *group.layers)
            now = (
                self._reach(part, part.compressed, number, *group.layers) if self.changed else dense
            )
            kept.append(now)
            if found is not None and now is not None:
                mask = self.inputs.padding(number)
                x = unpadded(input_of(first, *now), mask)
                before = None if now is dense or dense is None else input_of(first, *dense)
                found.add(x, None if before is None else unpadded(before, mask))
            self._record(part, part.dense, number, group, dense)
        if found is not None:
            assert chosen is not None
            statistics = found.result(self.names[chosen])
            own = [layer for layer in group.layers if layer in self.names]
            quantize(group, {} if statistics is None else dict.fromkeys(own, statistics))
        for number, arguments in enumerate(kept):
            self._record(part, part.compressed, number, group, arguments)
            kept[number] = None

    def _record(
        self,
        part: _Part,
        stream: _Stream,
        number: int,
        group: Group,
        arguments: Arguments | None,
    ) -> None:
        """Runs the layers of a group on their input, and keeps the outputs."""
        if arguments is None:
            return
        for layer in group.layers:
            args, kwargs = copied(arguments)
            stream.known[number][layer] = part.stops.original[layer](*args, **kwargs)

    def _do_observed(
        self, part: _Part, group: Group, quantize: Callable[[Group, Found], None]
    ) -> None:
        """Layers of several calls, or that share a weight: gathers the inputs of all calls."""
        own = [layer for layer in group.layers if layer in self.names]
        if not own:
            return
        sums = {layer: Accumulator(layer, self.handlers[layer]) for layer in own}
        for number in range(len(self.inputs.batches)):
            mask = self.inputs.padding(number)

            def observe(
                layer: nn.Module, given: Arguments, mask: torch.Tensor | None = mask
            ) -> None:
                if layer in sums:
                    sums[layer].add(unpadded(input_of(layer, *given), mask))

            part.stops.run(
                lambda number=number: part.compressed.call(number),  # type: ignore[misc]
                part.compressed.known[number],
                observe=observe,
            )
        found = {layer: sums[layer].result(self.names[layer]) for layer in own}
        (weight_name,) = self.handlers[own[0]].shapes(own[0])
        weight = own[0]._parameters[weight_name]
        assert weight is not None
        dense = weight.detach().clone()
        quantize(group, {layer: one for layer, one in found.items() if one is not None})
        self.live[weight] = (dense, weight.data)


def unpadded(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The inputs of tokens that are no padding, ``[tokens, inputs]``, where a mask tells."""
    if mask is None or x.dim() != 3 or x.shape[:2] != mask.shape:
        return x
    return x[mask.to(x.device)]


def _links(first: Block | Group, then: Block | Group) -> bool:
    return isinstance(then, Block) and isinstance(first, Block) and then.follows is first.module


@dataclass(eq=False)
class _Chain:
    """A block that is done: its arguments and outputs, by stream and batch."""

    module: nn.Module
    arguments: list[list[Arguments | None]]
    outputs: list[list[Any]]

    def next_arguments(self) -> list[list[Arguments | None]]:
        """Those of the block that takes this one's output in the place of its input."""
        return [
            [
                None if given is None else _replaced(given, output)
                for given, output in zip(own, outputs, strict=True)
            ]
            for own, outputs in zip(self.arguments, self.outputs, strict=True)
        ]


def _replaced(arguments: Arguments, output: Any) -> Arguments:
    """The arguments with another first tensor, that of an output."""
    old, new = first_tensor(arguments), first_tensor(output)
    made: Arguments = mapped(arguments, lambda part: new if part is old else part)
    return made


def _blank(output: Any) -> Any:
    """What stands for an output that nothing depends on: NaN, in no memory."""

    def blank(part: Any) -> Any:
        if not isinstance(part, torch.Tensor):
            return part
        fill = float("nan") if part.is_floating_point() else 0
        return torch.full((), fill, dtype=part.dtype, device=part.device).expand(part.shape)

    return mapped(output, blank)


def _equal(a: Any, b: Any) -> bool:
    """Whether two outputs of a model have the same values, up to rounding."""
    tensors = [
        (x.float(), y.float())
        for x, y in zip(parts_of(a), parts_of(b), strict=True)
        if isinstance(x, torch.Tensor)
    ]
    return bool(tensors) and all(
        torch.allclose(x, y, rtol=1e-3, atol=1e-3 * float(x.nan_to_num().abs().max()))
        for x, y in tensors
        if x.numel()
    )
