"""Models in and out of files."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from networks import Net, net, same
from torch import nn

import tersor
from tersor.io import checkpoint, container
from tersor.io.aliases import KEY as ALIASES


def test_save_and_load(tmp_path: Path) -> None:
    model = tersor.compress_(net())
    tersor.save(model, tmp_path / "m.safetensors")
    for target in (Net().eval(), tersor.compress_(Net().eval())):
        loaded = tersor.load(tmp_path / "m.safetensors", target)
        assert loaded is target
        assert loaded.fc is loaded.again
        assert same(loaded, model)
    content = tersor.load(tmp_path / "m.safetensors")
    assert set(content.layers) == {"conv.weight", "again.weight", "fc.weight"}
    assert content.tensors["norm.num_batches_tracked"].dtype == torch.int64
    with pytest.raises(ValueError, match="does not fit the model"):
        tersor.load(tmp_path / "m.safetensors", nn.Sequential(nn.Linear(2, 2)))


def test_the_smallest_entropy_is_kept_and_runs_as_the_other(tmp_path: Path) -> None:
    usual, smallest = tmp_path / "usual.safetensors", tmp_path / "smallest.safetensors"
    model = tersor.compress_(net())
    tersor.save(model, usual)
    again = tersor.compress_(net(), tersor.Config(entropy="smallest"))
    tersor.save(again, smallest)
    assert smallest.stat().st_size < usual.stat().st_size
    loaded = tersor.load_model(smallest, Net().eval())
    assert same(loaded, model)
    tersor.save(loaded, tmp_path / "once-more.safetensors")
    assert (tmp_path / "once-more.safetensors").stat().st_size == smallest.stat().st_size
    damaged = bytearray(smallest.read_bytes())
    damaged[len(damaged) // 3] ^= 1  # in what the index has coded
    smallest.write_bytes(damaged)
    with pytest.raises(tersor.FormatError):
        tersor.load_model(smallest, Net().eval())


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tersor.save(tersor.compress_(net()), path)
    whole = path.read_bytes()
    with container.open(path) as file:
        blob = next(v for n, v in file.tensors.items() if n.endswith("weight_blob")).bytes()
        inside = whole.index(blob.tobytes()) + len(blob) - 20
    for position in (inside, len(whole) - 1):  # in a layer's streams; in the last blob's hash
        altered = bytearray(whole)
        altered[position] ^= 1
        path.write_bytes(altered)
        with pytest.raises(tersor.FormatError, match="checksum"):
            tersor.load(path, net())


def test_max_bytes_bounds_what_loading_takes(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tersor.save(tersor.compress_(net()), path)
    with container.open(path) as file:
        needed = sum(view.needed_bytes() for view in file.tensors.values())
    target = net()
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(tersor.FormatError, match=r"at byte \d+, loading takes more than"):
        tersor.load(path, target, max_bytes=needed - 1)
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())
    tersor.load(path, target, max_bytes=needed)


def test_a_weight_that_two_layers_share_is_stored_once(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(60, 60), nn.Linear(60, 60))
    model[1].weight = model[0].weight
    tersor.compress_(model)
    assert model[0].weight_blob is model[1].weight_blob
    tersor.save(model, tmp_path / "m.safetensors")
    file = container.open(tmp_path / "m.safetensors")
    assert [name for name, view in file.tensors.items() if view.compressed] == ["0.weight_blob"]


class _Wider(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(7)


class _Other(Net):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 64, 5, groups=2)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_Wider(), r"norm\.bias: has shape \(64,\), the model \(7,\)"),
        (_Other(), r"conv\.weight_blob: has shape \(64, 1, 3, 3\), the model \(64, 1, 5, 5\)"),
        (nn.Sequential(nn.Linear(2, 2)), "missing .*unexpected"),
    ],
)
def test_a_model_that_does_not_fit_stays_as_it_was(
    tmp_path: Path, model: nn.Module, message: str
) -> None:
    tersor.save(tersor.compress_(net()), tmp_path / "m.safetensors")
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(ValueError, match=message):
        tersor.load(tmp_path / "m.safetensors", model)
    assert {name: type(module) for name, module in model.named_modules()} == before


@pytest.mark.parametrize("aliases", ["[", "[]", '{"a": 1}', '{"a": "absent"}', '{"w": "w"}'])
def test_malformed_aliases_are_named(tmp_path: Path, aliases: str) -> None:
    tensor = container.Tensor("U8", (1,), b"\1")
    container.write_file(tmp_path / "f", {"w": tensor}, {ALIASES: aliases})
    with pytest.raises(tersor.FormatError, match=r"tersor\.aliases|stands for"):
        tersor.load(tmp_path / "f")


def test_loading_in_inference_mode_gives_a_model_for_training(tmp_path: Path) -> None:
    model = tersor.compress_(net())
    tersor.save(model, tmp_path / "m.safetensors")
    assert json.loads(container.open(tmp_path / "m.safetensors").metadata[ALIASES])
    target = Net().eval()
    with torch.inference_mode():
        loaded = tersor.load(tmp_path / "m.safetensors", target)
    assert same(loaded, model)


def test_shared_biases_are_coded_and_come_back_bit_by_bit(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256, bias=False))
    dense = tmp_path / "dense.safetensors"
    tersor.save(tersor.compress_(copy.deepcopy(model)), dense)
    config = tersor.Config(biases=tersor.LayerConfig(codebook_size=7, kind="shared_fp16"))
    made = tersor.compress_(copy.deepcopy(model), config)
    assert made[0].bias.unique().numel() <= 8
    assert (made[0].bias - model[0].bias).abs().max() < 0.03
    coded = tmp_path / "coded.safetensors"
    tersor.save(made, coded)
    assert coded.stat().st_size < dense.stat().st_size - 600
    loaded = tersor.load(coded, copy.deepcopy(model))
    assert torch.equal(loaded[0].bias, made[0].bias)
    assert tersor.load(coded).tensors.keys() == {"0.bias"}


def test_a_vector_that_a_code_would_change_stays_as_it_is(tmp_path: Path) -> None:
    model = nn.Linear(3, 400)
    with torch.no_grad():
        model.bias.fill_(0.5)[7] = -0.0
    tersor.save(model, tmp_path / "m.safetensors")
    with container.open(tmp_path / "m.safetensors") as file:
        assert not file.tensors["bias"].compressed
    loaded = tersor.load(tmp_path / "m.safetensors", nn.Linear(3, 400))
    assert loaded.bias.detach().numpy().tobytes() == model.bias.detach().numpy().tobytes()


def test_the_size_of_a_file_is_counted_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 64))
    model[2].weight = model[0].weight
    config = tersor.Config(density=0.5)
    tersor.compress_(model, config)
    tersor.save(model, tmp_path / "f")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file is written")

    monkeypatch.setattr(container, "write_file", refuse)
    assert checkpoint.file_bytes(model, config) == (tmp_path / "f").stat().st_size
