"""Stage 1, select: which weights of a model are compressed, and why the others are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from tersor._names import near, without_wrappers
from tersor._validation import as_float32
from tersor.config import Config, LayerConfig
from tersor.nn.base import Compressed
from tersor.nn.hooks import hand_over
from tersor.nn.recomputed import plain_copy
from tersor.nn.registry import handler_of, swap_modules, why_not
from tersor.nn.wrappers import plain_name, wrapper_prefix
from tersor.pipeline.records import Selection, WeightRecord

FilterFunction = Callable[[nn.Module, str], bool]

NOT_CONFIGURED = "left out by the settings"
FILTERED = "left out by filter_fn"


def select(
    model: nn.Module,
    config: Config,
    filter_fn: FilterFunction | None = None,
    importance: Mapping[str, Any] | None = None,
) -> Selection:
    """The weights that a configuration compresses; arguments as of :func:`tersor.compress_`.

    Layers whose weight is computed before each forward (``torch.nn.utils.prune``, weight norm, …)
    get a plain copy in ``plain``, which their record is of.

    Raises:
        ValueError: a pattern or a name matches nothing; tied layers have different settings; a
            weight is not finite.
    """
    prefix = wrapper_prefix(model)
    names: dict[str, nn.Module] = {}  # each module once, by its first name
    for name, module in model.named_modules():
        names[plain_name(name, prefix)] = module
    _check_patterns(config, names)
    users = _users_of_parameters(names)
    selection = Selection([], {}, prefix)
    chosen: dict[int, WeightRecord] = {}
    for name, module in names.items():
        if isinstance(module, Compressed) or not module._parameters:
            continue
        reason, settings = _decide(name, module, config, filter_fn)
        if reason is None and settings is not None:
            plain = plain_copy(module)
            if plain is not None:
                selection.plain[module] = plain
            reason = _add(name, plain or module, settings, users, chosen, selection)
        if reason is not None:
            selection.left[name] = reason
    _leave_partly_tied(selection, users)
    _give_importance(selection, importance, model)
    return selection


def _decide(
    name: str, module: nn.Module, config: Config, filter_fn: FilterFunction | None
) -> tuple[str | None, LayerConfig | None]:
    """Why a layer is left, or the settings that it is compressed by."""
    reason = why_not(module)
    if reason is not None:
        return reason, None
    if filter_fn is not None and not filter_fn(module, name):
        return FILTERED, None
    handler = handler_of(module)
    assert handler is not None
    (shape,) = handler.shapes(module).values()
    settings = config.for_layer(name, len(shape))
    return (NOT_CONFIGURED, None) if settings is None else (None, settings)


def _add(
    name: str,
    module: nn.Module,
    settings: LayerConfig,
    users: Mapping[int, list[str]],
    chosen: dict[int, WeightRecord],
    selection: Selection,
) -> str | None:
    """Adds a layer's weight to the records, or the layer to the record of the same weight."""
    handler = handler_of(module)
    assert handler is not None
    for weight_name in handler.shapes(module):
        parameter = getattr(module, weight_name)
        if not isinstance(parameter, nn.Parameter):
            return f"{weight_name} is computed before each forward in a way that is not known"
        if parameter.is_meta:
            raise ValueError(f"{name}: {weight_name} is on the meta device and has no data")
        record = chosen.get(id(parameter))
        if record is None:
            record = WeightRecord(name, weight_name, parameter, {name: module}, handler, settings)
            chosen[id(parameter)] = record
            selection.records.append(record)
        elif record.settings != settings:
            raise ValueError(
                f"{record.label} and {name} share a weight but have different settings: "
                "give both the same"
            )
        else:
            record.places[name] = module
    return None


def _users_of_parameters(names: Mapping[str, nn.Module]) -> dict[int, list[str]]:
    """By the identity of a parameter, the layers that hold it."""
    users: dict[int, list[str]] = {}
    for name, module in names.items():
        for parameter in module._parameters.values():
            if parameter is not None:
                users.setdefault(id(parameter), []).append(name)
    return users


def _leave_partly_tied(selection: Selection, users: Mapping[int, list[str]]) -> None:
    """Leaves weights that other layers share which stay dense: the tie is worth more."""
    kept = []
    for record in selection.records:
        others = [n for n in users.get(id(record.parameter), []) if n not in record.places]
        if not others:
            kept.append(record)
            continue
        why = selection.left.get(others[0], "it stays dense")
        for name in record.places:
            selection.left[name] = f"shares its weight with {others[0]} ({why})"
    selection.records[:] = kept


def _check_patterns(config: Config, names: Mapping[str, nn.Module]) -> None:
    """Raises for overrides that match no layer, or only layers that cannot be compressed."""
    for pattern, settings in config.named_overrides:
        found = [
            name
            for name in names
            if fnmatchcase(name, pattern) or fnmatchcase(f"{name}.weight", pattern)
        ]
        if not found:
            layers = [name for name, module in names.items() if module._parameters and name]
            raise ValueError(f"overrides: '{pattern}' matches no layer{near(pattern, layers)}")
        if settings is None:
            continue
        reasons = {name: why_not(names[name]) for name in found if names[name]._parameters}
        if reasons and all(reasons.values()):
            name, reason = next(iter(reasons.items()))
            raise ValueError(
                f"overrides: '{pattern}' matches no layer that can be compressed: {name}: {reason}"
            )


def _give_importance(
    selection: Selection, importance: Mapping[str, Any] | None, model: nn.Module
) -> None:
    """Gives each record its importance.

    Raises:
        ValueError: a name is of no parameter of the model; a value is not finite.
    """
    if importance is None:
        return
    parameters = {plain_name(name, selection.prefix) for name, _ in model.named_parameters()}
    parameters |= {record.name for record in selection.records}
    given: dict[str, Any] = {}
    for name, value in importance.items():
        plain = name if name in parameters else without_wrappers(name, selection.prefix)
        if plain not in parameters:
            plain = plain.removeprefix("module.")
        if plain not in parameters:
            raise ValueError(f"importance: no weight is named '{name}'{near(name, parameters)}")
        given[plain] = value
    for record in selection.records:
        for place in record.places:
            own = given.get(f"{place}.{record.weight_name}".removeprefix("."))
            if own is not None:
                record.importance = as_float32(own, f"{record.label}: importance")
                break


def swap_plain_(model: nn.Module, selection: Selection, *, back: bool = False) -> nn.Module:
    """Puts the plain copies in the places of layers whose weight is computed, or these back."""
    swaps = {b: a for a, b in selection.plain.items()} if back else selection.plain
    if not swaps:
        return model
    return swap_modules(model, lambda module, _: swaps.get(module))


def tensor_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers as they are, those that are shared once."""
    tensors: list[torch.Tensor] = [*model.parameters(), *model.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors)


def give_up_plain_(
    model: nn.Module, selection: Selection, swaps: Mapping[nn.Module, nn.Module]
) -> nn.Module:
    """After the swap: plain copies that stayed dense make room for the layers that they stand for.

    The hooks of the other layers, which are not used any more, move for good.
    """
    left = {}
    for module, plain in selection.plain.items():
        if plain in swaps:
            hand_over(swaps[plain], module)
        else:
            left[plain] = module
    return swap_modules(model, lambda module, _: left.get(module)) if left else model
