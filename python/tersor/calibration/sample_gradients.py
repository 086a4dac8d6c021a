"""Squares of the gradients of single samples, for the weights of all layers of a model at once.

One backward pass gives the gradient of each layer's output. A sample's gradient of a weight is the
sum, over all rows (or patches) of the sample and all calls of the layer, of output gradients times
inputs. It is squared after that sum, hence sample by sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from tersor._names import joined
from tersor.calibration.inputs import input_of
from tersor.nn.registry import LayerHandler, handler_of, why_not
from tersor.ops.torch_internals import version_of

# Elements of the gradients of single samples, or of the patches that they are made from, at a time
# (64 MB of float32), but those of one sample at least.
_CHUNK = 1 << 24


@dataclass(eq=False)
class _Call:
    """A call of a layer: its input, and where its output is in the autograd graph.

    What is done in place to the output later adds to the graph but does not change its edge.
    """

    layer: nn.Module
    handler: LayerHandler
    inputs: torch.Tensor
    version: int  # of the inputs, which operations in place count up
    output: GradientEdge


@dataclass(eq=False)
class _Weight:
    """A weight, of one layer or of several that are tied.

    Attributes:
        names: of the weight in each of its layers.
        shape: of the weight.
        total: sum of squares, ``[groups, rows, columns]`` in float32 or float64.
        calls: of its layers since the last forward pass began.
        called: whether there was any.
    """

    names: list[str]
    shape: tuple[int, ...]
    total: torch.Tensor
    calls: list[_Call]
    called: bool = False

    def add(self, calls: list[_Call], gradients: list[torch.Tensor], samples: int) -> None:
        """Adds the square of each sample's gradient.

        Args:
            calls: of the layers.
            gradients: of the output of each call.
            samples: the number of samples, each as many rows of an input, one after another.
        """
        groups, rows, columns = self.total.shape
        if len(calls) == 1 and gradients[0].numel() == samples * groups * rows:
            # One row a sample: the square of a product is the product of squares.
            x, gradient = self._rows(calls[0], gradients[0])
            self.total.baddbmm_(gradient.square().transpose(1, 2), x.square())
            return
        most = max(gradient.numel() for gradient in gradients) // (rows * samples) * columns
        step = max(1, _CHUNK // max(self.total.numel(), most))
        for start in range(0, samples, step):
            stop = min(start + step, samples)
            each = self.total.new_zeros(stop - start, groups, rows, columns)
            for call, gradient in zip(calls, gradients, strict=True):
                x, part = self._rows(call, gradient, (start, stop, samples))
                x, part = (t.unflatten(1, (stop - start, -1)) for t in (x, part))
                each += torch.einsum("gstr,gstc->sgrc", part, x)
            self.total += each.square_().sum(0)

    def _rows(
        self, call: _Call, gradient: torch.Tensor, part: tuple[int, int, int] = (0, 1, 1)
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the weight was multiplied with, and the gradients of the products.

        Args:
            call: of the layer.
            gradient: of its output.
            part: the samples from the first to before the second number, of all.

        Returns:
            ``[groups, n, columns]`` and ``[groups, n, rows]``.
        """
        start, stop, samples = part
        x, gradient = (
            t[len(t) * start // samples : len(t) * stop // samples] for t in (call.inputs, gradient)
        )
        inputs = torch.cat(list(call.handler.samples(call.layer, x)), 1)
        # The axis of the rows is the last one, or that before the dimensions of the kernel.
        gradient = gradient.movedim(1 - len(self.shape), -1)
        groups, rows, _ = self.total.shape
        gradient = gradient.reshape(-1, groups, rows).transpose(0, 1)
        return inputs.to(self.total.dtype), gradient.to(self.total.dtype)


class SampleGradients:
    """Sums of squared gradients of single samples, over batches."""

    def __init__(self, model: nn.Module) -> None:
        self.weights: dict[nn.Module, _Weight] = {}
        by_parameter: dict[int, _Weight] = {}
        for name, module in model.named_modules():
            handler = handler_of(module)
            if handler is None or not handler.multiplies or why_not(module) is not None:
                continue
            ((weight_name, shape),) = handler.shapes(module).items()
            parameter = module._parameters.get(weight_name)
            key = id(module) if parameter is None else id(parameter)
            if key not in by_parameter:
                weight = getattr(module, weight_name)
                groups = handler.groups(module)
                total = torch.zeros(
                    (groups, shape[0] // groups, weight.numel() // shape[0]),
                    dtype=torch.promote_types(weight.dtype, torch.float32),
                    device=weight.device,
                )
                by_parameter[key] = _Weight([], shape, total, [])
            by_parameter[key].names.append(joined(name, weight_name))
            self.weights[module] = by_parameter[key]

    def clear(self) -> None:
        """Forgets the calls of the last forward pass; to be called before each."""
        for weight in self.weights.values():
            weight.calls.clear()

    def record(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor
    ) -> torch.Tensor:
        """A forward hook of each layer."""
        weight, handler = self.weights[layer], handler_of(layer)
        assert handler is not None
        if not torch.is_grad_enabled():
            raise ValueError(
                f"{weight.names[0]}: the model runs this layer without gradients (no_grad)"
            )
        if not output.requires_grad:  # as where all weights so far are frozen
            output = output.detach().requires_grad_().clone()
        elif output._is_view():  # what is then done in place goes around it, to its base
            output = output.clone()
        x = input_of(layer, args, kwargs)
        if x.numel():
            edge = get_gradient_edge(output)
            weight.calls.append(_Call(layer, handler, x, version_of(x), edge))
            weight.called = True
        return output

    def add(self, scores: torch.Tensor, directions: Iterator[torch.Tensor]) -> None:
        """Adds squares for the last forward pass.

        Args:
            scores: what it returned, ``[samples, ...]``.
            directions: vectors to multiply the Jacobian with, each of the shape of ``scores``.

        Raises:
            ValueError: the scores have no gradients, an input was changed after a layer's call,
                or what a layer computes is not sorted by sample.
        """
        weights = [weight for weight in dict.fromkeys(self.weights.values()) if weight.calls]
        if not weights:
            return
        if not scores.requires_grad:
            raise ValueError("the model detaches its outputs, so that they have no gradients")
        for weight in weights:
            if any(version_of(call.inputs) != call.version for call in weight.calls):
                raise ValueError(f"{weight.names[0]}: its input is changed in place after the call")
        self._check_order(scores, weights)
        for direction in directions:
            gradients = self._gradients(scores, weights, direction)
            for weight in weights:
                found = [(call, gradients.pop(0)) for call in weight.calls]
                used = [(call, gradient) for call, gradient in found if gradient is not None]
                if used:
                    weight.add([c for c, _ in used], [g for _, g in used], len(scores))

    def _gradients(
        self, scores: torch.Tensor, weights: list[_Weight], direction: torch.Tensor
    ) -> list[torch.Tensor | None]:
        """Of the outputs of all calls of all weights, one after another; None = it has none."""
        edges: list[Any] = [call.output for weight in weights for call in weight.calls]
        direction = direction.to(scores)
        return list(
            torch.autograd.grad(scores, edges, direction, retain_graph=True, allow_unused=True)
        )

    def _check_order(self, scores: torch.Tensor, weights: list[_Weight]) -> None:
        """Checks that the rows of each layer are those of the first sample, of the second, etc.

        The first half of the scores then depends on the first half of the rows alone.
        """
        samples = len(scores)
        if samples == 1:
            return
        direction = torch.zeros_like(scores)
        direction[: samples // 2] = torch.linspace(
            1.0, 2.0, scores.shape[-1], dtype=scores.dtype, device=scores.device
        )
        gradients = self._gradients(scores, weights, direction)
        for weight in weights:
            for call in weight.calls:
                gradient = gradients.pop(0)
                if gradient is None:
                    continue
                rows = len(gradient)
                sorted_ = rows % samples == 0 and len(call.inputs) % samples == 0
                if not sorted_ or gradient[rows // samples * (samples // 2) :].any():
                    raise ValueError(
                        f"{weight.names[0]}: what it computes is not sorted by sample along its "
                        f"first dimension (inputs {list(call.inputs.shape)} for {samples} "
                        "samples): give batches of one sample"
                    )

    def sums(self) -> dict[str, torch.Tensor]:
        """By weight name, of all weights whose layers were called: of the shape of the weight."""
        return {
            name: weight.total.view(weight.shape)
            for weight in self.weights.values()
            if weight.called
            for name in weight.names
        }


@contextmanager
def recorded(model: nn.Module) -> Iterator[SampleGradients]:
    """Within it, each call of a supported layer of the model is recorded."""
    gradients = SampleGradients(model)
    handles = [
        layer.register_forward_hook(gradients.record, with_kwargs=True)
        for layer in gradients.weights
    ]
    try:
        yield gradients
    finally:
        for handle in handles:
            handle.remove()
