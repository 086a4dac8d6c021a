"""Stage 1, select: which weights of a model are compressed, and why the others are not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from tersor._names import joined, matches, near
from tersor._validation import as_float32
from tersor.config import Config, LayerConfig
from tersor.io.state_dict import storage_key
from tersor.nn.base import Compressed
from tersor.nn.hooks import hand_over
from tersor.nn.layers import layers_of, nbytes, own_parameters
from tersor.nn.matrices import matrices_of
from tersor.nn.recomputed import plain_copy
from tersor.nn.registry import LayerHandler, handler_of, swap_modules, why_not
from tersor.nn.wrappers import plain_name
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
    layers = layers_of(model)
    overrides = _checked_overrides(config, layers, model)
    config = dataclasses.replace(config, overrides=overrides)
    selection = Selection([], {})
    records: dict[Hashable, WeightRecord] = {}
    for module, names in layers.items():
        if matrices_of(module) or isinstance(module, Compressed):
            continue
        reason, settings = _decide(names, module, config, filter_fn)
        if settings is not None:
            plain = plain_copy(module)
            if plain is not None:
                selection.plain[module] = plain
            reason = _add(names, plain or module, settings, config, records)
        if reason is not None:
            selection.left[names[0]] = reason
    selection.records += records.values()
    _leave_partly_tied(selection, layers)
    if importance is not None:
        _give_importance(selection, importance, layers)
    return selection


def _checked_overrides(
    config: Config, layers: Mapping[nn.Module, Sequence[str]], model: nn.Module
) -> list[tuple[str, LayerConfig | None]]:
    """The overrides with patterns of plain names.

    Raises:
        ValueError: a pattern matches no layer, or only layers that cannot be compressed.
    """
    checked = []
    for pattern, settings in config.named_overrides:
        forms = (pattern, plain_name(pattern, "_orig_mod."), plain_name(pattern, "module."))
        found: list[nn.Module] = []
        for form in dict.fromkeys(forms):
            found = [module for module, names in layers.items() if matches(form, names)]
            if found:
                break
        if not found:
            raise ValueError(
                f"overrides: '{pattern}' matches no layer{_hint(pattern, layers, model)}"
            )
        reasons = {
            module: why_not(module) for module in found if not isinstance(module, Compressed)
        }
        if settings is not None and reasons and all(reasons.values()):
            module, reason = next(iter(reasons.items()))
            raise ValueError(
                f"overrides: '{pattern}' matches no layer that can be compressed: "
                f"{layers[module][0]}: {reason}"
            )
        checked.append((form, settings))
    return checked


def _hint(pattern: str, layers: Mapping[nn.Module, Sequence[str]], model: nn.Module) -> str:
    """What a pattern may have meant that matches no layer."""
    names = [name for own in layers.values() for name in own if name]
    if any(name.startswith(f"{pattern}.") for name in names):
        return f"; for all layers in it write '{pattern}.*'"
    return near(pattern, names)


def _decide(
    names: Sequence[str], module: nn.Module, config: Config, filter_fn: FilterFunction | None
) -> tuple[str | None, LayerConfig | None]:
    """Why a layer is left, or the settings that it is compressed by."""
    reason = why_not(module)
    if reason is not None:
        return reason, None
    if filter_fn is not None and not filter_fn(module, names[0]):
        return FILTERED, None
    handler = handler_of(module)
    assert handler is not None
    shape = next(iter(handler.shapes(module).values()))
    settings = config.for_layer(names, len(shape), handler.settings)
    return (NOT_CONFIGURED, None) if settings is None else (None, settings)


def _add(
    names: Sequence[str],
    module: nn.Module,
    settings: LayerConfig,
    config: Config,
    records: dict[Hashable, WeightRecord],
) -> str | None:
    """Adds a layer's weights to the records, or the layer to the records of the same weights.

    Returns:
        Why it is left; None where it is added.
    """
    name = names[0]
    handler = handler_of(module)
    assert handler is not None
    parameters: dict[str, nn.Parameter] = {}
    for weight_name in handler.shapes(module):
        parameter = getattr(module, weight_name)
        if not isinstance(parameter, nn.Parameter):
            return f"{weight_name} is computed before each forward in a way that is not known"
        if parameter.is_meta:
            raise ValueError(f"{name}: {weight_name} is on the meta device and has no data")
        record = records.get(identity(parameter))
        if record is not None and (record.handler.transposed, record.weight_name) != (
            handler.transposed,
            weight_name,
        ):
            return f"shares its weight with {record.label}, a layer of another kind"
        parameters[weight_name] = parameter
    if len({identity(parameter) for parameter in parameters.values()}) < len(parameters):
        return "some of its weights are the same tensor"
    is_named = config.names_layer(names)
    for weight_name, parameter in parameters.items():
        found = records.get(identity(parameter))
        if found is None:
            made = WeightRecord(name, weight_name, parameter, {name: module}, handler, settings)
            made.is_named = is_named
            records[identity(parameter)] = made
            continue
        if found.settings != settings:
            _settle(found, name, handler, settings, is_named=is_named)
        found.places[name] = module
    return None


def _settle(
    record: WeightRecord, name: str, handler: LayerHandler, settings: LayerConfig, *, is_named: bool
) -> None:
    """Gives the record of a tied weight the settings that count for all its layers.

    Of layers of two kinds, those of the one that is named by an override; else the embedding's.

    Raises:
        ValueError: two layers of one kind, or two named ones, have different settings.
    """
    if record.handler.settings == handler.settings or (record.is_named and is_named):
        raise ValueError(
            f"{record.label} and {name} share a weight but have different settings: "
            "give both the same"
        )
    if is_named or (not record.is_named and handler.settings == "embedding"):
        record.settings, record.is_named = settings, is_named


def identity(tensor: torch.Tensor) -> Hashable:
    """What tensors have in common that are tied: the memory, or else the object."""
    if is_lazy(tensor) or not tensor.numel():
        return id(tensor)
    return storage_key(tensor)


def _leave_partly_tied(selection: Selection, layers: Mapping[nn.Module, Sequence[str]]) -> None:
    """Leaves weights that other layers share which stay dense: the tie is worth more."""
    users = users_of(layers)
    for record in selection.records:
        others = [n for n in users.get(identity(record.parameter), ()) if n not in record.places]
        if others:
            why = selection.left.get(others[0], "it stays dense")
            for name in record.places:
                selection.left[name] = tied_to(others[0], why)
    leave_places(selection)


def leave_places(selection: Selection) -> None:
    """Takes the layers out of the records that are left, and with them all their weights.

    Those that share a weight with such a layer are left as well.
    """
    left = {m for r in selection.records for n, m in r.places.items() if n in selection.left}
    growing = True
    while growing:
        growing = False
        for record in selection.records:
            places = record.places
            hit = next((n for n, m in places.items() if m in left), None)
            rest = {n: m for n, m in places.items() if m not in left}
            if hit is not None and rest:
                growing = True
                left.update(rest.values())
                for name in rest:
                    why = selection.left.get(hit, "it stays dense")
                    selection.left.setdefault(name, tied_to(hit, why))
    selection.records[:] = [r for r in selection.records if left.isdisjoint(r.places.values())]


def users_of(layers: Mapping[nn.Module, Sequence[str]]) -> dict[Hashable, dict[str, nn.Module]]:
    """The layers that hold a parameter, with their first names, by its :func:`identity`."""
    users: dict[Hashable, dict[str, nn.Module]] = {}
    for module, names in layers.items():
        for parameter in own_parameters(module):
            users.setdefault(identity(parameter), {})[names[0]] = module
    return users


def tied_to(name: str, why: str) -> str:
    """Why a layer is left that shares its weight with one that stays dense."""
    return f"shares its weight with {name} ({why})"


def _give_importance(
    selection: Selection,
    importance: Mapping[str, Any],
    layers: Mapping[nn.Module, Sequence[str]],
) -> None:
    """Gives each record its importance.

    Raises:
        ValueError: a name is of no weight of the model; a value is not finite.
    """
    weights = {
        joined(name, leaf): module
        for module, names in layers.items()
        for name in names
        for leaf in (*module._parameters, "weight")
    }
    given: dict[tuple[nn.Module, str], Any] = {}
    for name, value in importance.items():
        forms = (name, plain_name(name, ""), plain_name(name, "module."))
        plain = next((form for form in forms if form in weights), None)
        if plain is None:
            raise ValueError(f"importance: no weight is named '{name}'{near(name, weights)}")
        given[weights[plain], plain.rpartition(".")[2]] = value
    originals = {plain: module for module, plain in selection.plain.items()}
    for record in selection.records:
        for module in record.places.values():
            own = given.get((originals.get(module, module), record.weight_name))
            if own is not None:
                record.importance = as_float32(own, f"{record.label}: importance")
                break


def swap_plain_(model: nn.Module, selection: Selection) -> nn.Module:
    """Puts the plain copies in the places of layers whose weight is computed."""
    return swap_modules(model, lambda module, _: selection.plain.get(module))


def swap_plain_back_(model: nn.Module, selection: Selection) -> nn.Module:
    """Puts the layers back that plain copies, where they are still in the model, stand for."""
    originals = {plain: module for module, plain in selection.plain.items()}
    return swap_modules(model, lambda module, _: originals.get(module))


def tensor_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers as they are, those that are shared once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum({identity(tensor): nbytes(tensor) for tensor in tensors}.values())


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
