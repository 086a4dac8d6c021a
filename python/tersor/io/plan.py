"""Which tensor of a file goes where in a model, decided before anything is changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from tersor._names import joined, listed, without_wrappers
from tersor.codec.blob import SUFFIX, decode_blob, inspect_blob
from tersor.codec.encode import decompress_weight
from tersor.io.content import Content
from tersor.nn.base import Compressed
from tersor.nn.fuse import Neighbour, neighbours_to_fuse
from tersor.nn.matrices import matrices_of
from tersor.nn.recomputed import computed_names, plain_copy
from tersor.nn.registry import handler_of, why_not
from tersor.nn.wrappers import plain_name, wrapper_prefix


@dataclass(frozen=True)
class Names:
    """A model's modules and state by plain names, those of several names under each of them."""

    modules: dict[str, nn.Module]
    state: dict[str, torch.Tensor]

    def owner(self, name: str) -> tuple[nn.Module | None, str]:
        """The module that a tensor belongs to, and the tensor's name in it."""
        owner, _, leaf = name.rpartition(".")
        return self.modules.get(owner), leaf

    def dense(self, name: str) -> str:
        """The name that a tensor of the state has where the model is dense."""
        module, leaf = self.owner(name)
        is_blob = leaf.endswith(SUFFIX) and leaf.removesuffix(SUFFIX) in matrices_of(module)
        return name.removesuffix(SUFFIX) if is_blob else name


def names_of(model: nn.Module) -> Names:
    """The plain names of a model."""
    prefix = wrapper_prefix(model)
    modules = model.named_modules(remove_duplicate=False)
    return Names(
        {plain_name(name, prefix): module for name, module in modules},
        {plain_name(n, prefix): v for n, v in model.state_dict(keep_vars=True).items()},
    )


@dataclass
class Plan:
    """How the content of a file goes into a model.

    Attributes:
        layers: the modules that run from blobs of the file, and the dense names of their weights by
            those in the module.
        fused: by layer, the activation that becomes part of it.
        left: by name of a layer whose blob is decoded, why it cannot run compressed.
        unused: names of blobs whose module has no such weight.
        problems: what stands against loading, in words.
    """

    layers: dict[nn.Module, dict[str, str]] = field(default_factory=dict)
    fused: dict[nn.Module, Neighbour] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@torch.inference_mode(False)  # as what is read
def plan_loading(content: Content, model: nn.Module, strict: bool) -> Plan:
    """Decides which layers run compressed; blobs of others become dense tensors of the content.

    The content takes the names of the model: wrappers are taken off, and what is tied in the model
    stands under all its names.
    """
    names = names_of(model)
    _take_wrappers_off(content, names)
    _give_ties_all_names(content, names)
    plan = Plan()
    _choose_layers(plan, content, names)
    plan.problems += _misfits(plan, content, names, strict)
    _plan_activations(plan, content, model)
    return plan


def _take_wrappers_off(content: Content, names: Names) -> None:
    """Renames what was saved from a wrapped model by older versions, or by torch itself."""
    known = {names.dense(name) for name in names.state}
    stored = [*content.tensors, *content.blobs]
    if not stored or known.intersection(stored):
        return
    for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."):
        if all(name.startswith(prefix) for name in stored):
            plain = {name: without_wrappers(name, prefix) for name in stored}
            if known.intersection(plain.values()):
                content.tensors = {plain[name]: v for name, v in content.tensors.items()}
                content.blobs = {plain[name]: v for name, v in content.blobs.items()}
                return


def _give_ties_all_names(content: Content, names: Names) -> None:
    """Puts what the model ties under all its names, where the file has one of them alone."""
    groups: dict[int, list[str]] = {}
    for name, value in names.state.items():
        groups.setdefault(id(value), []).append(names.dense(name))
    for group in groups.values():
        for table in (content.blobs, content.tensors):
            found = next((table[name] for name in group if name in table), None)
            if found is not None:
                for name in group:
                    if name not in content.blobs and name not in content.tensors:
                        table[name] = found


def _refusal(module: nn.Module, leaf: str) -> str | None:
    """Why a weight cannot run compressed; None = it can."""
    if matrices_of(module):
        return None if leaf in matrices_of(module) else f"{leaf} is no weight"
    handler = handler_of(module)
    reason = why_not(module)
    if reason is None and handler is not None and leaf not in handler.shapes(module):
        reason = f"{leaf} is no weight that can run compressed"
    return reason


def _has(module: nn.Module, leaf: str) -> bool:
    """Whether a module has a tensor of a name, which may be computed or compressed."""
    if isinstance(module, Compressed) and leaf == module.weight_name:
        return True
    tables = (module._parameters, module._buffers)
    return any(table.get(leaf) is not None for table in tables) or leaf in computed_names(module)


def _choose_layers(plan: Plan, content: Content, names: Names) -> None:
    """Which blobs stay compressed. One that is shared does only where all its layers can."""
    refused: dict[int, str] = {}
    for name, blob in content.blobs.items():
        module, leaf = names.owner(name)
        if module is not None and not _has(module, leaf):
            plan.unused.append(name)
            continue
        reason = None if module is None else _refusal(module, leaf)
        if reason is not None:
            refused.setdefault(id(blob), f"{name.rpartition('.')[0] or 'the model'}: {reason}")
    _refuse_with_all_weights(refused, content, names)
    decoded: dict[int, torch.Tensor] = {}
    for name, blob in list(content.blobs.items()):
        module, leaf = names.owner(name)
        if module is None or name in plan.unused:
            continue
        if id(blob) not in refused or matrices_of(module):
            plan.layers.setdefault(module, {}).setdefault(leaf, name)
            continue
        plan.left[name.rpartition(".")[0]] = refused[id(blob)]
        if id(blob) not in decoded:
            dense = decompress_weight(decode_blob(blob.numpy()))
            decoded[id(blob)] = torch.from_numpy(dense)
        content.tensors[name] = decoded[id(blob)]
        del content.blobs[name]


def _refuse_with_all_weights(refused: dict[int, str], content: Content, names: Names) -> None:
    """A layer of several weights runs compressed with all of them or with none."""
    before = -1
    while before != len(refused):
        before = len(refused)
        reasons = {
            names.owner(name)[0]: refused[id(blob)]
            for name, blob in content.blobs.items()
            if id(blob) in refused
        }
        for name, blob in content.blobs.items():
            module = names.owner(name)[0]
            if module is not None and module in reasons:
                refused.setdefault(id(blob), reasons[module])


def _misfits(plan: Plan, content: Content, names: Names, strict: bool) -> Iterator[str]:
    """What of the file does not fit the model, in words."""
    expected = _expected_shapes(plan, names)
    stored = {name: tuple(tensor.shape) for name, tensor in content.tensors.items()}
    for name, blob in content.blobs.items():
        stored[name + SUFFIX] = inspect_blob(blob.numpy()).shape
    missing = sorted(expected.keys() - stored.keys())
    unexpected = sorted(stored.keys() - expected.keys())
    if strict and missing:
        yield f"missing {listed(missing)}"
    if strict and unexpected:
        yield f"unexpected {listed(unexpected)}"
    for name in missing:
        if name.endswith(SUFFIX) and name.removesuffix(SUFFIX) in stored:
            yield (
                f"{name.removesuffix(SUFFIX)} is dense in the file and compressed in the model: "
                "call tersor.decompress_(model) first"
            )
            break
    for name in sorted(expected.keys() & stored.keys()):
        shape = expected[name]
        if shape is not None and stored[name] != shape:
            yield f"{name}: has shape {stored[name]}, the model {shape}"


def _expected_shapes(plan: Plan, names: Names) -> dict[str, tuple[int, ...] | None]:
    """The names that the model's state will have, with dense shapes; None = any shape."""
    shapes: dict[str, tuple[int, ...] | None] = {}
    inside = tuple(
        joined(name, "parametrizations.") for name, m in names.modules.items() if m in plan.layers
    )
    for name, value in names.state.items():
        module, leaf = names.owner(name)
        if names.dense(name) != name:
            shapes[name] = matrices_of(module)[leaf.removesuffix(SUFFIX)].shape
        elif module in plan.layers or name.startswith(inside):
            continue
        elif isinstance(value, torch.Tensor):
            shapes[name] = None if is_lazy(value) else tuple(value.shape)
    for name, module in names.modules.items():
        if module not in plan.layers:
            continue
        handler = handler_of(module)
        if handler is not None:
            for leaf, shape in handler.shapes(module).items():
                shapes[joined(name, leaf + SUFFIX)] = shape
        # All else that the layer has moves to the compressed one.
        plain = plain_copy(module) or module
        for leaf, value in plain.state_dict(keep_vars=True).items():
            if "." in leaf:
                continue  # of a module inside, which is listed above
            weight = leaf.removesuffix(SUFFIX)
            if weight not in plan.layers[module] and isinstance(value, torch.Tensor):
                shapes[joined(name, leaf)] = tuple(value.shape)
    return shapes


def _plan_activations(plan: Plan, content: Content, model: nn.Module) -> None:
    """Where the activations stand that the file says its layers have."""
    wanted: dict[nn.Module, str] = {}
    firsts = {module: next(iter(own.values())) for module, own in plan.layers.items()}
    for module, name in firsts.items():
        activation = content.records.of(name).activation
        own = module.activation if isinstance(module, Compressed) else "none"
        if activation in ("none", own):
            continue  # an activation that the model alone has fused follows the file's layer
        if own != "none":
            plan.problems.append(f"{name}: {activation} is fused in the file, {own} in the model")
        wanted[module] = activation
    plan.fused, lacking = neighbours_to_fuse(model, wanted)
    plan.problems += [
        f"{firsts[module]}: {wanted[module]} is fused into the layer in the file, and in this "
        "model no such activation follows it in an nn.Sequential"
        for module in lacking
    ]
