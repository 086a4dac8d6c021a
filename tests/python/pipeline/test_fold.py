"""``Config(fold_norms=True)`` through compress, fuse, save, load and errors."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tersor
from tersor import Config, LayerConfig
from tersor.nn import CompressedConv2d

CONFIG = Config(fold_norms=True, conv=LayerConfig(codebook_size=255, precision="highest"))


def _model() -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 24, 3, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3),
        nn.BatchNorm2d(24),
        nn.GELU(),
    )
    for norm in (model[1], model[4]):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.normal_(norm.weight)
    return model.eval()


X = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(1))


def test_norms_become_part_of_the_layers_before_them() -> None:
    dense = _model()
    with torch.no_grad():
        expected = dense(X)
    model = tersor.compress_(copy.deepcopy(dense), CONFIG)
    assert [type(module) for module in model] == [
        CompressedConv2d,
        nn.Identity,
        nn.ReLU,
        CompressedConv2d,
        nn.Identity,
        nn.GELU,
    ]
    error = (model(X) - expected).norm() / expected.norm()
    assert error < 0.02
    assert [layer.name for layer in tersor.report(model).layers] == ["0", "3"]
    found = model(X)
    tersor.fuse_(model)
    assert [model[0].activation, model[3].activation] == ["relu", "gelu"]
    assert torch.allclose(model(X), found, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_file_with_folded_norms_fits_the_model_as_it_is_built(
    fused: bool, device: str, tmp_path: Path
) -> None:
    model = tersor.compress_(_model(), CONFIG)
    if fused:
        tersor.fuse_(model)
    expected = model(X)
    tersor.save(model, tmp_path / "m.safetensors")
    with torch.device(device):
        fresh = _model()
    loaded = tersor.load_model(tmp_path / "m.safetensors", fresh)
    assert torch.equal(loaded(X), expected)
    tersor.save(loaded, tmp_path / "again.safetensors")
    again = tersor.load_model(tmp_path / "again.safetensors", _model())
    assert torch.equal(again(X), expected)
    assert torch.equal(tersor.load_model(tmp_path / "again.safetensors", again)(X), expected)


def test_a_model_that_does_not_fit_stays_as_it_was(tmp_path: Path) -> None:
    tersor.save(tersor.compress_(_model(), CONFIG), tmp_path / "m.safetensors")
    other = nn.Sequential(*_model(), nn.Linear(3, 3))
    state = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match=r"missing 6\.bias, 6\.weight"):
        tersor.load_model(tmp_path / "m.safetensors", other)
    assert other.state_dict().keys() == state.keys()
    assert type(other[1]) is nn.BatchNorm2d


def test_errors_and_estimates_leave_the_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    with torch.no_grad():
        expected = model(X)
    estimate = tersor.estimate(model, CONFIG)
    assert set(estimate.layers) == {"0", "3"}
    with pytest.raises(ValueError, match="cannot reach"):
        tersor.compress_(model, Config(fold_norms=True, target_bytes=10))
    assert model[0].bias is None
    with torch.no_grad():
        assert torch.equal(model(X), expected)
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        tersor.compress_(model.train(), CONFIG)


def test_a_model_that_cannot_be_traced_needs_inputs() -> None:
    class Untraceable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = _model()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x) if x.mean() < 1e6 else x

    model = Untraceable().eval()
    with pytest.raises(ValueError, match="cannot trace the model .*: give data"):
        tersor.compress_(model, CONFIG)
    with torch.no_grad():
        expected = model(X)
    tersor.compress_(model, CONFIG, data=[X])
    assert type(model.body[1]) is nn.Identity
    assert (model(X) - expected).norm() / expected.norm() < 0.05


def test_settings_go_to_json_and_back() -> None:
    assert Config.from_json(CONFIG.to_json()) == CONFIG
    with pytest.raises(ValueError, match="fold_norms must be true or false"):
        Config(fold_norms=1)  # type: ignore[arg-type]
