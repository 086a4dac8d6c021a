"""Batches as users have them, and the state of a model that calibration runs."""

from __future__ import annotations

import copy
from collections import UserDict, namedtuple
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tersor
from tersor import Config, LayerConfig
from tersor.calibration import inputs
from tersor.calibration.compensation import compensate_
from tersor.calibration.sensitivity import hessian_diagonal
from tersor.calibration.statistics import input_statistics
from tersor.pipeline.compress import fit

SETTINGS = LayerConfig(density=0.4, codebook_size=7)
CONFIG = Config(linear=SETTINGS)


class Net(nn.Module):
    """Two layers large enough to shrink; the mask and the options are not needed."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor, mask: Any = None, options: Any = None) -> torch.Tensor:
        h = self.fc1(input=x).relu()
        if mask is not None:
            h = h * mask["keep"][0]
        y: torch.Tensor = self.fc2(h)
        return y


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def samples(count: int = 96) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randn(count, 16, generator=g) @ torch.randn(16, 64, generator=g)


def compressed(data: Iterable[Any], config: Config = CONFIG) -> dict[str, torch.Tensor]:
    model = tersor.compress_(net(), config, data=data)
    assert isinstance(model.fc1, tersor.nn.CompressedLinear)
    return model.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


Arguments = namedtuple("Arguments", ["x", "mask"])
FORMS: dict[str, Callable[[torch.Tensor], Any]] = {
    "tuple": lambda x: (x,),
    "list": lambda x: [x],
    "namedtuple": lambda x: Arguments(x, None),
    "dict": lambda x: {"x": x},
    "mapping": lambda x: UserDict(x=x),  # as a tokenizer's BatchEncoding is
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_batches_of_all_forms_give_the_model_of_tensors(form: Callable[..., Any]) -> None:
    parts = samples().split(32)
    expected = compressed(parts)
    assert not same(expected, tersor.compress_(net(), CONFIG).state_dict())
    assert same(compressed([form(part) for part in parts]), expected)
    sensitivity = hessian_diagonal(net(), [form(part) for part in parts])
    assert same(sensitivity, hessian_diagonal(net(), parts))
    model = net()
    found = input_statistics(model, model.fc2, [form(part) for part in parts])
    plain = input_statistics(model, model.fc2, parts)
    assert found is not None
    assert plain is not None
    assert torch.equal(found.second[0], plain.second[0])


@pytest.mark.parametrize(
    "config", [CONFIG, Config(linear=SETTINGS, target_ratio=10)], ids=["settings", "target"]
)
def test_loaders_and_generators_are_lists_of_batches(config: Config) -> None:
    parts = samples().split(32)
    expected = compressed(list(parts), config)
    loader = DataLoader(TensorDataset(samples()), batch_size=32)
    assert same(compressed(loader, config), expected)
    assert same(compressed((part for part in parts), config), expected)


@torch.no_grad()
def test_nested_arguments_reach_the_model() -> None:
    x, keep = samples(), (torch.arange(64) % 2).float()
    expected = net()(x, {"keep": [keep]})
    assert not torch.equal(expected, net()(x))
    assert torch.equal(inputs.run(net(), (x, {"keep": [keep]})), expected)
    assert torch.equal(inputs.run(net(), {"x": x, "mask": {"keep": (keep,)}}), expected)
    by_tuple = compressed([(x, {"keep": [keep]}, "fast")])
    assert same(by_tuple, compressed([{"mask": {"keep": [keep]}, "x": x}]))
    assert not same(by_tuple, compressed([x]))


def test_batches_are_moved_to_the_device_of_the_model() -> None:
    model = Net().to("meta")
    keep = torch.ones(64)
    assert inputs.run(model, samples()).is_meta
    assert inputs.run(model, {"x": samples(), "mask": {"keep": [keep]}}).is_meta
    assert inputs.run(nn.Flatten(), samples()).device.type == "cpu"  # no parameters, no device


@pytest.mark.parametrize(("data", "message"), [
    (np.zeros((2, 64), np.float32), "batch 0 of the data is of type ndarray: give a tensor"),
    ([torch.zeros(2, 64), "text"], "batch 1 of the data is of type str: give a tensor"),
    ([{0: torch.zeros(2, 64)}], "batch 0 of the data is a dict of 0: give"),
    (torch.zeros(2, 64), "the data is of type Tensor, not batches: give a list"),
    ({"x": torch.zeros(2, 64)}, "the data is of type dict, not batches"),
    (TensorDataset(torch.zeros(2, 64)), "the data is of type TensorDataset, .*DataLoader"),
    (7, "the data is of type int, not batches"),
    ([(torch.zeros(2, 64), None, None, torch.zeros(2))], "Net.forward .* a tuple of 4: .*labels"),
    ([{"x": torch.zeros(2, 64), "labels": torch.zeros(2)}], "a dict of 'x', 'labels'.*no labels"),
], ids=[
    "array", "text", "names", "tensor", "mapping", "set", "number", "four", "labels",
])  # fmt: skip
def test_other_data_is_refused_in_one_sentence(data: Any, message: str) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        tersor.compress_(model, CONFIG, data=data)
    assert same(model.state_dict(), before)
    with pytest.raises(ValueError, match=message):
        hessian_diagonal(model, data)
    with pytest.raises(ValueError, match=message):
        input_statistics(model, model.fc1, data)


@pytest.mark.parametrize("data", [[], (b for b in ()), DataLoader([])], ids=["list", "gen", "dl"])
def test_no_batches_are_refused(data: Iterable[Any]) -> None:
    with pytest.raises(ValueError, match="data holds no batches"):
        tersor.compress_(net(), CONFIG, data=data)
    with pytest.raises(ValueError, match="data holds no batches"):
        compensate_(net(), data, {})


def test_an_error_of_the_model_itself_stays_as_it_is() -> None:
    with pytest.raises(TypeError, match="subscriptable"):
        inputs.run(net(), (samples(), 3.0))


class Shift(nn.Module):
    """Changes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc(x.sub_(1.0))
        return y


def test_batches_stay_as_they_are_where_a_model_changes_its_input() -> None:
    torch.manual_seed(0)
    model, x = Shift(), samples()
    first = input_statistics(model, model.fc, [x])
    assert torch.equal(x, samples())
    second = input_statistics(model, model.fc, [x])
    assert first is not None
    assert second is not None
    assert torch.equal(first.mean, second.mean)
    hessian_diagonal(model, [x])
    assert torch.equal(x, samples())


class Frozen(nn.Module):
    """A norm that stays in evaluation mode while the others train, and one that never leaves it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 64)
        self.frozen, self.trained = nn.BatchNorm1d(64), nn.BatchNorm1d(64)
        self.switched = 0

    def train(self, mode: bool = True) -> Frozen:
        self.switched += 1
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.trained(self.frozen(self.fc(x)))
        return y


RUNS: dict[str, Callable[[nn.Module], object]] = {
    "compensation": lambda m: tersor.compress_(m, CONFIG, data=[samples()]),
    "estimate": lambda m: tersor.estimate(m, CONFIG, data=[samples()]),
    "search": lambda m: fit(m, Config(target_ratio=8), data=[samples()]),
    "statistics": lambda m: input_statistics(m, m.get_submodule("fc"), [samples()]),
    "sensitivity": lambda m: hessian_diagonal(m, [samples()]),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
@pytest.mark.parametrize("training", [True, False])
def test_each_module_keeps_its_own_mode(run: Callable[[nn.Module], object], training: bool) -> None:
    model = Frozen().train()
    model.training = training  # modes need not agree
    switched = model.switched
    run(model)
    assert model.training == training
    assert model.trained.training
    assert not model.frozen.training
    assert model.switched == switched
    for norm in (model.frozen, model.trained):
        assert not norm.running_mean.any()  # was in evaluation mode meanwhile


@pytest.mark.parametrize("gradients", [False, True])
def test_modes_and_gradients_are_restored_after_an_error(gradients: bool) -> None:
    model = Frozen().train()

    def fail() -> None:
        with inputs.evaluating(model, gradients=gradients):
            assert torch.is_grad_enabled() == gradients
            assert not model.trained.training
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.is_grad_enabled()
    assert model.training
    assert model.trained.training
    assert not model.frozen.training
    assert torch.backends.mha.get_fastpath_enabled()


def test_inference_mode_changes_nothing() -> None:
    expected = compressed([samples()])
    diagonal = hessian_diagonal(net(), [samples()])
    model = net()
    with torch.inference_mode():
        x = samples()  # an inference tensor, which autograd refuses to save
        found = hessian_diagonal(model, [x])
        tersor.compress_(model, CONFIG, data=[x])
    assert same(model.state_dict(), expected)
    assert same(found, diagonal)


class Block(nn.Module):
    """A compiled part before a layer."""

    def __init__(self, part: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.part = part(nn.Sequential(nn.Linear(64, 64), nn.ReLU()))
        self.fc = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc(self.part(x))
        return y


def compiled_in_place(module: nn.Module) -> nn.Module:
    module.compile(backend="eager")
    return module


COMPILED: dict[str, Callable[[], nn.Module]] = {
    "whole": lambda: torch.compile(Block(lambda part: part), backend="eager"),
    "part": lambda: Block(lambda part: torch.compile(part, backend="eager")),
    "in place": lambda: compiled_in_place(Block(lambda part: part)),
}


@pytest.mark.parametrize("make", COMPILED.values(), ids=COMPILED.keys())
@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch before 2.6")
def test_layers_of_models_that_ran_compiled_are_reached(make: Callable[[], nn.Module]) -> None:
    plain, model = Block(lambda part: part), make().eval()
    with torch.no_grad():
        model(samples())  # hooks that come after this are not called
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    named = {layer: (str(i), SETTINGS) for i, layer in enumerate(layers)}
    assert compensate_(model, [samples()], named).keys() == set(layers)
    expected = [m for m in plain.modules() if isinstance(m, nn.Linear)]
    compensate_(plain, [samples()], dict.fromkeys(expected, ("", SETTINGS)))
    for a, b in zip(layers, expected, strict=True):
        assert torch.equal(a.weight, b.weight)


def test_layers_that_torch_fuses_in_evaluation_are_reached() -> None:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(64, 4, 64, batch_first=True)
    model = nn.TransformerEncoder(block, 2).eval()
    x = samples(96).view(12, 8, 64)
    mask = torch.arange(8).expand(12, 8) >= 5
    with torch.no_grad():
        model.layers[0].linear2.bias.fill_(0.5)
    found = input_statistics(
        model, model.layers[1].linear1, [{"src": x, "src_key_padding_mask": mask}]
    )
    assert found is not None
    assert found.count == 12 * 8
