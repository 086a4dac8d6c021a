"""The state of a training run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tersor.pruning.masks import Masks, density_masks
from tersor.training.resume import TrainingState


def parts(seed: int) -> tuple[nn.Linear, torch.optim.Adam, Masks]:
    torch.manual_seed(seed)
    model = nn.Linear(6, 5)
    return model, torch.optim.Adam(model.parameters()), Masks({"weight": model.weight})


def test_every_part_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.pt"
    model, optimizer, masks = parts(0)
    masks.set(density_masks({"weight": model.weight.abs()}, 0.3))
    model(torch.randn(4, 6)).sum().backward()
    optimizer.step()
    TrainingState(path, model=model, optimizer=optimizer, masks=masks).save(3)
    assert [p.name for p in path.parent.iterdir()] == ["run.pt"]

    again, its_optimizer, its_masks = parts(1)
    state = TrainingState(path, model=again, optimizer=its_optimizer, masks=its_masks)
    assert state.load() == 3
    assert torch.equal(its_masks.masks["weight"], masks.masks["weight"])
    assert torch.equal(again.weight, model.weight * masks.masks["weight"])
    moment = its_optimizer.state[again.weight]["exp_avg"]
    assert torch.equal(moment, optimizer.state[model.weight]["exp_avg"])


def test_without_a_file_nothing_is_done_yet(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    assert TrainingState(tmp_path / "run.pt", model=model).load() == 0
    assert torch.equal(model.weight, before)


def test_without_a_path_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = TrainingState(None, model=nn.Linear(2, 2))
    state.save(2)
    assert state.load() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    model, optimizer, _ = parts(0)
    TrainingState(path, model=model).save(1)
    with pytest.raises(ValueError, match=r"holds \['epoch', 'model', 'settings'\], .* delete"):
        TrainingState(path, model=model, optimizer=optimizer).load()


def test_a_file_of_other_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    model, again = nn.Linear(2, 2), nn.Linear(2, 2)
    TrainingState(path, "two epochs", model=model).save(1)
    with pytest.raises(ValueError, match="settings 'two epochs', not 'three epochs'; delete"):
        TrainingState(path, "three epochs", model=again).load()
    assert not torch.equal(again.weight, model.weight)
    assert TrainingState(path, "two epochs", model=again).load() == 1
