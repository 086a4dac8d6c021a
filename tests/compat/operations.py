"""What people do with a model, each as a check of one case.

The first line of each docstring is its name on the page of supported layers.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest
import torch
from torch import nn

import tersor
from tersor.codec.blob import SUFFIX
from tersor.io import container
from tersor.nn.matrices import matrices_of
from tests.compat.cases import (
    QUANTIZATION,
    ROUNDING,
    Case,
    layers_of,
    relative_error,
    tensor_of,
    tied_names,
)
from tests.compat.families import TINY, Family, Warns


def compress(case: Case) -> None:
    """`compress_`"""
    before, after = case.dense.state_dict(), case.compressed.state_dict()
    for name, layer in layers_of(case.dense).items():
        made = case.compressed.get_submodule(name)
        if case.family.reason(name, layer) is None:
            assert matrices_of(made), name
            sizes = [0, 0]
            for leaf, weight in matrices_of(made).items():
                assert getattr(made, leaf).dtype == weight.dtype == case.dtype
                sizes[0] += after[f"{name}.{leaf}{SUFFIX}"].nbytes
                sizes[1] += before[f"{name}.{leaf}"].nbytes
            assert sizes[0] < sizes[1]
        else:
            assert type(made) is type(layer), name
    for name in before.keys() & after.keys():  # all that is not compressed is as it was
        assert after[name].dtype == before[name].dtype
        assert torch.equal(after[name], before[name]), name
    assert case.output.dtype == case.dtype
    error = relative_error(case.output, case.run(case.dense))
    assert error < QUANTIZATION + ROUNDING[case.dtype]


def report(case: Case) -> None:
    """`report`"""
    made = tersor.report(case.compressed)
    layers = layers_of(case.dense)
    assert [layer.name for layer in made.layers] == list(layers)
    for layer in made.layers:
        expected = case.family.reason(layer.name, layers[layer.name])
        reason = layer.reason if expected != TINY else str(layer.reason).partition(" (")[0]
        assert reason == expected, layer.name
        assert layer.compressed == (layer.reason is None)
        assert layer.kind == type(layers[layer.name]).__name__
        assert layer.relative_error is None or layer.relative_error < QUANTIZATION
        assert layer.name in str(made)
    tensors = {id(t): t.nbytes for t in [*case.dense.parameters(), *case.dense.buffers()]}
    assert made.dense_bytes == sum(tensors.values())
    with container.open(case.file) as file:
        assert made.stored_bytes == sum(view.nbytes for view in file.tensors.values())


def forward(case: Case) -> None:
    """forward as the decompressed model"""
    model = copy.deepcopy(case.compressed)
    called = set()
    for name, module in model.named_modules():
        if matrices_of(module):
            module.register_forward_hook(lambda *_, name=name: called.add(name))
    expected = case.run(case.decompressed)
    assert relative_error(case.run(model), expected) < ROUNDING[case.dtype]
    for name, module in model.named_modules():
        if matrices_of(module):
            decoded = any(fnmatchcase(name, pattern) for pattern in case.family.decoded)
            assert (name in called) == (not decoded), name


def load_fresh(case: Case) -> None:
    """`save`, `load` into a fresh model"""
    loaded = _loaded(case, case.build())
    assert torch.equal(case.run(loaded), case.output)
    assert tied_names(loaded) == tied_names(case.compressed)


def load_meta(case: Case) -> None:
    """`load` into a model built on `meta`"""
    model = case.build("meta")
    outcome = case.family.outcomes.get("load_meta")
    if isinstance(outcome, Warns):
        with pytest.warns(UserWarning, match=outcome.pattern):
            loaded = tersor.load_model(case.file, model)
        fresh = dict(case.dense.named_buffers())
        for name, buffer in list(loaded.named_buffers()):
            if buffer.is_meta:  # what the warning says
                owner, _, leaf = name.rpartition(".")
                loaded.get_submodule(owner)._buffers[leaf] = fresh[name].clone()
    else:
        loaded = _loaded(case, model)
    assert torch.equal(case.run(loaded), case.output)
    assert tied_names(loaded) == tied_names(case.compressed)


def _loaded(case: Case, model: nn.Module) -> nn.Module:
    """The file of a case in a model, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return tersor.load_model(case.file, model)


def deep_copy(case: Case) -> None:
    """`copy.deepcopy`"""
    copied = copy.deepcopy(case.compressed)
    assert torch.equal(case.run(copied), case.output)
    assert tied_names(copied) == tied_names(case.compressed)
    held = {t.data_ptr() for t in case.compressed.state_dict().values() if t.numel()}
    assert held.isdisjoint(t.data_ptr() for t in copied.state_dict().values())


def pickled(case: Case) -> None:
    """`pickle`"""
    back = pickle.loads(pickle.dumps(case.compressed))
    assert torch.equal(case.run(back), case.output)
    assert tied_names(back) == tied_names(case.compressed)


def gradients(case: Case) -> None:
    """gradients of what stays dense"""
    compressed = tersor.compress_(
        copy.deepcopy(case.dense), tersor.Config.balanced(), trainable=True
    )
    found = []
    for model in (compressed, tersor.decompress_(copy.deepcopy(compressed))):
        tensor_of(model(**case.inputs)).float().square().sum().backward()
        named = dict(model.named_parameters())
        kept = [named[name].grad for name, _ in compressed.named_parameters()]
        found.append(torch.cat([g.double().flatten() for g in kept if g is not None]))
    assert found[0].numel() > 0
    assert relative_error(found[0], found[1]) < 2 * ROUNDING[case.dtype]


def compile_whole(case: Case, model: nn.Module | None = None) -> None:
    """`torch.compile(fullgraph=True)`"""
    model = model or case.compressed
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert relative_error(case.run(compiled), case.run(model)) < ROUNDING[case.dtype]


def export(case: Case, model: nn.Module | None = None) -> None:
    """`torch.export`"""
    model = model or case.compressed
    exported = torch.export.export(model, (), case.inputs).module()
    assert relative_error(case.run(exported), case.run(model)) < ROUNDING[case.dtype]


def calibrate(case: Case) -> None:
    """`compress_(data=)`"""
    settings = tersor.LayerConfig(codebook_size=63, density=0.5)
    config = tersor.Config(linear=settings, conv=settings, embedding=settings)
    expected = case.run(case.dense)
    errors = []
    for data in ([case.inputs], None):
        model = tersor.compress_(copy.deepcopy(case.dense), config, data=data)
        layers = [layer for layer in tersor.report(model).layers if layer.compressed]
        for layer in layers:
            assert layer.density == pytest.approx(0.5, abs=0.02), layer.name
        assert tied_names(model) == tied_names(case.compressed)
        errors.append(relative_error(case.run(model), expected))
    assert errors[0] < errors[1] if layers else errors == [0.0, 0.0]


def tie(case: Case) -> None:
    """tied weights, `tie_weights()`"""
    assert tied_names(case.compressed) == case.family.tied
    assert tied_names(case.decompressed) == case.family.tied
    model = copy.deepcopy(case.compressed)
    model.tie_weights()
    assert tied_names(model) == case.family.tied
    assert torch.equal(case.run(model), case.output)


def decompress(case: Case) -> None:
    """`decompress_`"""
    back = case.decompressed
    expected = case.dense.state_dict(keep_vars=True)
    found = back.state_dict(keep_vars=True)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].requires_grad == tensor.requires_grad, name
        assert type(found[name]) is type(tensor), name
        assert relative_error(found[name], tensor) < QUANTIZATION, name
    assert [type(m) for m in back.modules()] == [type(m) for m in case.dense.modules()]
    for name, module in case.compressed.named_modules():
        for leaf, weight in matrices_of(module).items():
            expected_weight = weight.dense_weight().to(case.dtype)
            assert torch.equal(getattr(back.get_submodule(name), leaf), expected_weight)


def generate(case: Case) -> None:
    """`generate`"""
    layer = tersor.LayerConfig(codebook_size=127, method="uniform", precision="highest")
    config = tersor.Config(linear=layer, embedding=tersor.LayerConfig(codebook_size=255))
    model = tersor.compress_(copy.deepcopy(case.dense), config)
    prompt = case.inputs["input_ids"]
    tokens = [
        each.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8)
        for each in (model, tersor.decompress_(copy.deepcopy(model)))
    ]
    assert tokens[0].shape[1] > prompt.shape[1]
    assert torch.equal(*tokens)


OPERATIONS: dict[str, Callable[..., None]] = {
    "compress": compress,
    "report": report,
    "forward": forward,
    "load_fresh": load_fresh,
    "load_meta": load_meta,
    "deepcopy": deep_copy,
    "pickle": pickled,
    "gradients": gradients,
    "compile": compile_whole,
    "export": export,
    "calibrate": calibrate,
    "tie": tie,
    "decompress": decompress,
    "generate": generate,
}


def applies(operation: str, family: Family) -> bool:
    """Whether an operation means anything for a family."""
    if operation == "tie":
        return bool(family.tied)
    return family.generates if operation == "generate" else True
