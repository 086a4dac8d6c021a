"""How the content of a file goes into a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from tersor._names import joined, without_wrappers
from tersor.codec.blob import SUFFIX, decode_blob, inspect_blob
from tersor.codec.encode import decompress_weight
from tersor.config import Precision
from tersor.io.content import Content
from tersor.nn.base import BLOB, Compressed
from tersor.nn.fuse import fuse_recorded_
from tersor.nn.hooks import hand_over, take_over
from tersor.nn.recomputed import plain_copy
from tersor.nn.registry import handler_of, swap_modules, why_not
from tersor.nn.wrappers import plain_name, wrapper_prefix


class Plan:
    """How the content of a file goes into a model; nothing is changed before :meth:`carry_out`."""

    def __init__(self, content: Content, model: nn.Module) -> None:
        self.content, self.model = content, model
        self.prefix = wrapper_prefix(model)
        self.left: dict[str, str] = {}
        # By plain names. Modules and tensors that stand under several names stand under each.
        self.modules = {
            plain_name(name, self.prefix): module
            for name, module in model.named_modules(remove_duplicate=False)
        }
        state = model.state_dict(keep_vars=True)
        self.places = {plain_name(n, self.prefix): n for n in state}
        self.state = {plain_name(n, self.prefix): value for n, value in state.items()}
        self._take_wrappers_off_names()
        # The modules that become compressed, and the name of the weight of each.
        self.swaps: dict[nn.Module, str] = {}
        # Blobs that are decoded, by identity: those that are shared, once.
        self._decoded: dict[int, torch.Tensor] = {}
        self._decide()

    def _take_wrappers_off_names(self) -> None:
        """Renames what older versions saved from a wrapped model, where the names tell."""
        known = self.state.keys() | {f"{name}.weight" for name in self.modules}
        for prefix in ("module.", "_orig_mod.", "module._orig_mod."):
            stored = [*self.content.tensors, *self.content.blobs]
            if stored and not known.intersection(stored):
                names = {name: without_wrappers(name, prefix) for name in stored}
                if known.intersection(names.values()):
                    for table in (self.content.tensors, self.content.blobs):
                        renamed = {names[name]: value for name, value in table.items()}
                        table.clear()
                        table.update(renamed)

    def _decide(self) -> None:
        """Which blobs stay compressed. One that is shared does only where all its layers can."""
        refused: dict[int, str] = {}
        for name, blob in self.content.blobs.items():
            owner, _, leaf = name.rpartition(".")
            module = self.modules.get(owner)
            if module is None or isinstance(module, Compressed):
                continue
            handler = handler_of(module)
            reason = why_not(module)
            if reason is None and handler is not None and leaf not in handler.shapes(module):
                reason = f"{leaf} is no weight that can run compressed"
            if reason is not None:
                refused.setdefault(id(blob), f"{owner}: {reason}")
        for name, blob in list(self.content.blobs.items()):
            module = self.modules.get(name.rpartition(".")[0])
            if id(blob) in refused and not isinstance(module, Compressed):
                self._decode(name, blob, refused[id(blob)])
            elif module is not None and not isinstance(module, Compressed):
                self.swaps[module] = name

    def _decode(self, name: str, blob: torch.Tensor, reason: str) -> None:
        """Takes a blob as the dense weight that it stands for."""
        del self.content.blobs[name]
        self.left[name.rpartition(".")[0]] = f"stored compressed, runs dense ({reason})"
        if id(blob) not in self._decoded:
            dense = decompress_weight(decode_blob(blob.numpy()))
            self._decoded[id(blob)] = torch.from_numpy(dense)
        self.content.tensors[name] = self._decoded[id(blob)]

    def misfits(self, strict: bool) -> list[str]:
        """What stands against loading, in words."""
        return list(self._misfits(strict))

    def _misfits(self, strict: bool) -> Iterator[str]:
        expected = self._expected_shapes()
        stored = {name: tuple(tensor.shape) for name, tensor in self.content.tensors.items()}
        for name, blob in self.content.blobs.items():
            stored[name + SUFFIX] = inspect_blob(blob.numpy()).shape
        tied = self._tied()
        missing = sorted(
            name
            for name in expected.keys() - stored.keys()
            if not any(other in stored for other in tied.get(name, ()))
        )
        unexpected = sorted(stored.keys() - expected.keys())
        if strict and missing:
            yield f"missing {missing}"
        if strict and unexpected:
            yield f"unexpected {unexpected}"
        for name in sorted(expected.keys() & stored.keys()):
            if stored[name] != expected[name]:
                yield f"{name}: has shape {stored[name]}, the model {expected[name]}"

    def _tied(self) -> dict[str, list[str]]:
        """By name, the other names of the same tensor."""
        groups: dict[int, list[str]] = {}
        for name, value in self.state.items():
            groups.setdefault(id(value), []).append(name)
        return {name: names for names in groups.values() if len(names) > 1 for name in names}

    def _expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """The names that the model's state will have, with dense shapes."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name, value in self.state.items():
            owner = name.rpartition(".")[0]
            module = self.modules.get(owner)
            if isinstance(module, Compressed) and name == joined(owner, BLOB):
                shapes[name] = module.shape
            elif isinstance(value, torch.Tensor) and not self._belongs_to_swapped(name):
                shapes[name] = tuple(value.shape)
        for name, module in self.modules.items():
            if module in self.swaps:
                handler = handler_of(module)
                assert handler is not None
                for leaf, shape in handler.shapes(module).items():
                    shapes[joined(name, leaf) + SUFFIX] = shape
                # All else that the layer has moves to the compressed one.
                plain = plain_copy(module) or module
                for leaf, value in plain.state_dict(keep_vars=True).items():
                    if leaf not in handler.shapes(module) and isinstance(value, torch.Tensor):
                        shapes[joined(name, leaf)] = tuple(value.shape)
        return shapes

    def _belongs_to_swapped(self, name: str) -> bool:
        """Whether a name of the state is inside a layer that becomes compressed."""
        parts = name.split(".")
        return any(self.modules.get(".".join(parts[:i])) in self.swaps for i in range(len(parts)))

    def carry_out(self, precision: Precision | None) -> nn.Module:
        """Swaps the layers and fills the model."""
        made: dict[nn.Module, nn.Module] = {}
        activations: dict[nn.Module, str] = {}
        for module, name in self.swaps.items():
            handler = handler_of(module)
            assert handler is not None
            plain = plain_copy(module) or module
            layer = handler.empty_like(plain)
            layer.set_blob(self.content.blobs[name])
            take_over(layer, plain, layer.attributes)
            hand_over(layer, module)
            made[module] = layer
            self._set_up(layer, name, precision, activations)
        model = swap_modules(self.model, lambda module, _: made.get(module))
        rest = dict(self.content.tensors)
        for name, module in self.modules.items():
            blob = self.content.blobs.get(joined(name, "weight"))
            if isinstance(module, Compressed) and blob is not None:
                rest[joined(name, BLOB)] = blob
                self._set_up(module, joined(name, "weight"), precision, activations)
        fuse_recorded_(model, activations)
        _fill(model, self.prefix, rest)
        for name, reason in self.left.items():
            warnings.warn(f"{name}: {reason}", stacklevel=4)
        return model

    def _set_up(
        self,
        layer: Compressed,
        name: str,
        precision: Precision | None,
        activations: dict[nn.Module, str],
    ) -> None:
        """Gives a layer what the file says of it beside its blob."""
        record = self.content.records.of(name)
        layer.precision = precision or record.precision
        if record.activation != layer.activation:
            activations[layer] = record.activation


@torch.no_grad()
def _fill(model: nn.Module, prefix: str, state: Mapping[str, torch.Tensor]) -> None:
    """Copies tensors into a model by plain names; on the meta device they take the places."""
    places = {plain_name(name, prefix): name for name in model.state_dict()}
    on_meta: dict[int, torch.Tensor] = {}
    copied: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        actual = places.get(name)
        if actual is None:
            continue
        owner, _, leaf = actual.rpartition(".")
        module = model.get_submodule(owner)
        target = module._parameters.get(leaf, module._buffers.get(leaf))
        if target is None or not target.is_meta:
            copied[actual] = value
            continue
        if id(target) not in on_meta:  # tied parameters stay tied
            with torch.inference_mode(False):
                new = value.to(target.dtype)
                if isinstance(target, nn.Parameter):
                    new = nn.Parameter(new, target.requires_grad)
            on_meta[id(target)] = new
        table = module._parameters if leaf in module._parameters else module._buffers
        table[leaf] = on_meta[id(target)]  # type: ignore[assignment]
    model.load_state_dict(copied, strict=False)
    # Parameters that are tied to those that the state names.
    for module in model.modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in on_meta:
                module._parameters[leaf] = on_meta[id(parameter)]  # type: ignore[assignment]
    still = [name for name, t in [*model.named_parameters(), *model.named_buffers()] if t.is_meta]
    if still:
        names = ", ".join(still[:5]) + (" and others" if len(still) > 5 else "")
        warnings.warn(
            f"{names}: not in the file, and still on the meta device; give them values before the "
            "model is used",
            stacklevel=5,
        )
