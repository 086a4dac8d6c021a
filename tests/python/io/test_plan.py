"""What goes where is decided before anything is changed."""

from __future__ import annotations

from pathlib import Path

import torch
from networks import WIDTH, LanguageModel, bytes_of, two_linears
from torch import nn

import tersor
from tersor.io.content import Content, read_content
from tersor.io.plan import names_of, plan_loading


def content_of(model: nn.Module, folder: Path) -> Content:
    tersor.save(model, folder / "m")
    return read_content(folder / "m", None)


def test_planning_changes_nothing(tmp_path: Path) -> None:
    content = content_of(tersor.fuse_(tersor.compress_(two_linears())), tmp_path)
    for model in (two_linears(), tersor.compress_(two_linears())):
        before, modules = bytes_of(model), dict(model.named_modules())
        plan = plan_loading(content, model, strict=True)
        assert plan.problems == []
        assert plan.layers == {model[0]: {"weight": "0.weight"}, model[2]: {"weight": "2.weight"}}
        assert plan.fused[model[0]].position == 1
        assert bytes_of(model) == before
        assert dict(model.named_modules()) == modules


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    content = content_of(tersor.compress_(two_linears()), tmp_path)
    model = nn.Sequential(nn.Linear(WIDTH, 7), nn.LayerNorm(7))
    assert plan_loading(content, model, strict=True).problems == [
        "missing 1.bias, 1.weight",
        "unexpected 2.bias, 2.weight_blob",
        "0.bias: has shape (64,), the model (7,)",
        "0.weight_blob: has shape (64, 64), the model (7, 64)",
    ]
    assert len(plan_loading(content, model, strict=False).problems) == 2


def test_long_lists_of_names_are_cut(tmp_path: Path) -> None:
    content = content_of(nn.Sequential(*(nn.LayerNorm(3) for _ in range(20))), tmp_path)
    (missing, unexpected) = plan_loading(
        content, nn.ModuleDict({"a": two_linears()}), True
    ).problems
    assert missing == "missing a.0.bias, a.0.weight, a.2.bias, a.2.weight"
    assert unexpected.endswith("and 35 others")


def test_names_of_a_model() -> None:
    model = tersor.compress_(two_linears())
    names = names_of(nn.DataParallel(model))
    assert names.modules["0"] is model[0]
    assert names.dense("0.weight_blob") == "0.weight"
    assert names.dense("0.bias") == "0.bias"
    assert names.owner("2.bias") == (model[2], "bias")
    tied = names_of(LanguageModel())
    assert tied.state["head.weight"] is tied.state["embedding.weight"]
    assert isinstance(tied.state["fc.weight"], torch.Tensor)
