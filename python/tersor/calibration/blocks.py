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
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tersor.calibration.chains import Chain, blank, check_chains
from tersor.calibration.inputs import (
    Batch,
    ForwardFunction,
    copied,
    evaluating,
    input_of,
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
Refine = Callable[[nn.Module, Callable[[int], Any], Sequence[Any]], None]


@dataclass(frozen=True)
class Inputs:
    """Calibration inputs, and how the model takes them.

    Attributes:
        batches: in order.
        forward_fn: ``(model, batch)``, or None.
        checkpoint_dir: where weights are kept that are calibrated already, or None.
        refine_steps: of distillation for each block.
    """

    batches: Sequence[Batch]
    forward_fn: ForwardFunction | None = None
    checkpoint_dir: Path | None = None
    refine_steps: int = 0

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


class BlockRun:
    """Runs a model block by block while its layers are compressed.

    Args:
        model: in any mode; is run in evaluation mode.
        inputs: calibration inputs.
        names: of the layers whose inputs are asked for.
        ties: by layer, all layers that share its weight.
        dense: what the dense network has in the place of weights that are compressed already.
        plan: of another run of the same model and inputs, which saves tracing it again.
        frozen: whether no weight will be changed: one network is run then.
        refine: called with each block that is compressed, what runs it for a batch, and the outputs
            of the dense one by batch; may change its parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        names: Mapping[nn.Module, str],
        ties: Mapping[nn.Module, Sequence[nn.Module]],
        dense: Mapping[nn.Parameter, torch.Tensor] | None = None,
        plan: list[Block | Group] | None = None,
        *,
        frozen: bool = False,
        refine: Refine | None = None,
    ) -> None:
        self.model, self.inputs, self.names = model, inputs, names
        self.handlers = {layer: supported(layer, name) for layer, name in names.items()}
        self.plan = plan if plan is not None else self._traced(ties)
        self.frozen, self.refine = frozen, refine
        # Dense and compressed weights that are used on, as of layers that are called twice.
        self.live: dict[nn.Parameter, tuple[torch.Tensor, torch.Tensor]] = {
            parameter: (own, parameter.data) for parameter, own in (dense or {}).items()
        }
        self.changed = bool(self.live)

    def _traced(self, ties: Mapping[nn.Module, Sequence[nn.Module]]) -> list[Block | Group]:
        """What is run one after another, from a run of all inputs."""
        model, inputs = self.model, self.inputs
        body = model.get_submodule(wrapper_prefix(model).rstrip("."))
        layers = list(dict.fromkeys([*layers_within(body), *self.names]))
        blocks = [] if body in layers else candidate_blocks(body)
        trace, output = trace_of(model, layers, blocks, inputs.batches, inputs.forward_fn)
        plan = plan_of(trace, blocks, ties)
        with evaluating(model):
            check_chains(plan, lambda: self._run_model(0), output)
        return plan

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
            before: Chain | None = None
            for item in self.plan:
                if isinstance(item, Group):
                    self._do_group(part, item, quantize)
                    before = None
                else:
                    before = self._do_block(part, item, before, quantize)

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
        before: Chain | None,
        quantize: Callable[[Group, Found], None],
    ) -> Chain:
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
            outputs = [[self._finish(part, part.dense, number) for number in range(batches)]]
            if self.refine is not None and self.changed and block.groups:
                part.compressed.known = [{} for _ in range(batches)]  # biases are to change
                self.refine(
                    block.module, lambda n: self._finish(part, part.compressed, n), outputs[0]
                )
            outputs.append(
                [self._finish(part, part.compressed, number) for number in range(batches)]
                if self.changed
                else outputs[0]
            )
        for stream, made in zip((model.dense, model.compressed), outputs, strict=True):
            for number, output in enumerate(made):
                if arguments[0][number] is not None:
                    stream.known[number][block.module] = output
        if linked:
            assert before is not None
            for known in (*model.dense.known, *model.compressed.known):
                known[before.module] = blank(known.get(before.module))
        return Chain(block.module, arguments, outputs)

    def _arguments(self, part: _Part, module: nn.Module) -> list[list[Arguments | None]]:
        """Of the call of a stop: by stream, by batch."""
        numbers = range(len(self.inputs.batches))
        found = [[self._reach(part, part.dense, number, module) for number in numbers]]
        found.append(
            [self._reach(part, part.compressed, number, module) for number in numbers]
            if self.changed
            else found[0]
        )
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
        named = any(layer in self.names for layer in group.layers)
        self.changed = self.changed or (named and not self.frozen)

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
        same = not self.changed and (self.frozen or found is None)
        for number, arguments in enumerate(kept):
            if same:
                known = part.dense.known[number]
                part.compressed.known[number].update(
                    (layer, known[layer]) for layer in group.layers if layer in known
                )
            else:
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
            # Layers of registered types leave their inputs as they are.
            args, kwargs = arguments if layer in self.handlers else copied(arguments)
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
        parameters = {p for layer in own for p in layer._parameters.values() if p is not None}
        dense = {parameter: parameter.detach().clone() for parameter in parameters}
        quantize(group, {layer: one for layer, one in found.items() if one is not None})
        self.live.update((p, (before, p.data)) for p, before in dense.items())


def unpadded(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The inputs of tokens that are no padding, ``[tokens, inputs]``, where a mask tells."""
    if mask is None or x.dim() != 3 or x.shape[:2] != mask.shape:
        return x
    return x[mask.to(x.device)]
