"""How calibration runs a model: what a batch is, and the state that the model is in meanwhile.

A batch is a tensor, a tuple or list of arguments, or a mapping of keyword arguments.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.backends.mha
from torch import nn

from tersor.nn.wrappers import wrapper_prefix

Batch = Any  # torch.Tensor, a tuple or list of arguments, or a mapping of keyword arguments
ForwardFunction = Callable[[nn.Module, Any], Any]


def each_batch(data: Iterable[Batch], *, any_kind: bool = False) -> Iterator[Batch]:
    """The batches, one by one and checked: whatever their number, one is held at a time.

    Args:
        data: batches.
        any_kind: whether a batch may be anything, as where a function runs the model on it.

    Raises:
        ValueError: ``data`` is a single batch, or one of its batches is none.
    """
    if isinstance(data, (torch.Tensor, Mapping, str)) or not isinstance(data, Iterable):
        raise ValueError(
            f"the data is of type {type(data).__name__}, not batches: give a list of batches, or "
            "what yields them, such as a DataLoader"
        )
    for number, batch in enumerate(data):
        if any_kind:
            good = True
        elif isinstance(batch, Mapping):
            good = all(isinstance(name, str) for name in batch)
        else:
            good = isinstance(batch, (torch.Tensor, tuple, list))
        if not good:
            raise ValueError(
                f"batch {number} of the data is {_described(batch)}: give a tensor, a tuple or "
                "list of arguments, or a dict of keyword arguments"
            )
        yield batch


def read_batches(data: Iterable[Batch], *, any_kind: bool = False) -> list[Batch]:
    """All batches, read once: an iterator has none the second time; arguments as above.

    Raises:
        ValueError: as :func:`each_batch`, or there are none.
    """
    batches = list(each_batch(data, any_kind=any_kind))
    if not batches:
        raise ValueError("data holds no batches")
    return batches


def run(model: nn.Module, batch: Batch, forward_fn: ForwardFunction | None = None) -> Any:
    """What a model makes of a copy of a batch, on the device of the model's first parameter.

    Wrappers of the whole model (``torch.compile``, DDP) are left out: hooks on layers that are
    compiled already would not be called.

    Args:
        model: any module.
        batch: a tensor is given as ``model(x)``, a tuple or list as ``model(*batch)``, a mapping as
            ``model(**batch)``. Only the model may change what it is given, hence the copy.
        forward_fn: is called with the model and the batch instead, which may then be anything.

    Raises:
        ValueError: the model's ``forward`` does not take these arguments.
    """
    model = model.get_submodule(wrapper_prefix(model).rstrip("."))
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    device = None if first is None else first.device
    if forward_fn is not None:
        return forward_fn(model, copied(batch, device))
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    if isinstance(batch, Mapping):
        kwargs = {name: copied(value, device) for name, value in batch.items()}
    elif isinstance(batch, torch.Tensor):
        args = [copied(batch, device)]
    else:
        args = [copied(value, device) for value in batch]
    try:
        return model(*args, **kwargs)
    except TypeError as error:
        try:
            inspect.signature(model.forward).bind(*args, **kwargs)
        except TypeError:
            raise ValueError(
                f"{type(model).__name__}.forward does not take a batch that is "
                f"{_described(batch)}: {error}; a batch holds the arguments of forward, and no "
                "labels"
            ) from error
        raise


def _described(batch: Batch) -> str:
    """What a batch is, for messages."""
    kind = type(batch).__name__
    if isinstance(batch, Mapping):
        return f"a {kind} of {', '.join(map(repr, batch))}"
    return f"a {kind} of {len(batch)}" if isinstance(batch, (tuple, list)) else f"of type {kind}"


def copied(value: Any, device: torch.device | None = None) -> Any:
    """A copy of a value with the tensors and containers in it, on a device; None = theirs."""

    def copy_of(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            return part.detach().to(device or part.device, copy=True)
        if hasattr(part, "__dict__") and not isinstance(part, (type, nn.Module)):
            return copy.deepcopy(part)  # such as a cache of keys and values
        return part

    return mapped(value, copy_of)


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """Nested tuples, lists and mappings with a function of each part in its place."""
    if isinstance(value, Mapping):
        made = copy.copy(value) if hasattr(value, "__setitem__") else dict(value)
        for name, part in value.items():
            made[name] = mapped(part, function)
        return made
    if isinstance(value, tuple):
        parts = (mapped(part, function) for part in value)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [mapped(part, function) for part in value]
    return function(value)


def parts_of(value: Any) -> Iterator[Any]:
    """What nested tuples, lists and mappings hold, from first to last."""
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        yield value
        return
    for part in value:
        yield from parts_of(part)


def first_tensor(value: Any) -> torch.Tensor | None:
    """The first tensor in nested tuples, lists and mappings."""
    return next((part for part in parts_of(value) if isinstance(part, torch.Tensor)), None)


@contextmanager
def evaluating(model: nn.Module, *, gradients: bool = False) -> Iterator[None]:
    """Evaluation mode, with each module's own mode restored afterwards.

    Layers run as modules meanwhile, so that hooks on them are called: not compiled, and not fused
    as ``nn.TransformerEncoder`` does in evaluation.

    Args:
        model: the flags of its modules are set; ``train``, which layers may override, is not
            called.
        gradients: whether autograd records, even within ``no_grad`` or ``inference_mode``.
    """
    modes = [(module, module.training) for module in model.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        if gradients:
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(gradients))
        if hasattr(torch.compiler, "set_stance") and any(map(_is_compiled, model.modules())):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            for module, _ in modes:
                module.training = False
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            for module, training in modes:
                module.training = training


def _is_compiled(module: nn.Module) -> bool:
    """Whether ``torch.compile`` or ``module.compile()`` was called on it."""
    return "_orig_mod" in module._modules or module._compiled_call_impl is not None


def input_of(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """The input of a layer's call, without gradients: the first argument, or by its name."""
    x: torch.Tensor = given_input(layer, args, kwargs)
    return x.detach()


def given_input(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The first argument of a layer's call, as a hook sees its arguments."""
    if args:
        return args[0]
    return kwargs.get(next(iter(inspect.signature(layer.forward).parameters)))
