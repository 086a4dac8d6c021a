"""Values for the parameters and buffers of a model."""

from __future__ import annotations

import pytest
import torch
from networks import WIDTH, LanguageModel, two_linears
from torch import nn

from tersor.io.fill import fill_


def on_meta(model: nn.Module) -> nn.Module:
    return model.to("meta")


def test_what_has_memory_is_copied_in_its_own_dtype() -> None:
    model = two_linears().bfloat16()
    parameters = [id(p) for p in model.parameters()]
    value = torch.randn(WIDTH, WIDTH)
    assert fill_(model, {"0.weight": value}) == []
    assert torch.equal(model[0].weight, value.bfloat16())
    assert [id(p) for p in model.parameters()] == parameters


def test_on_the_meta_device_the_tensor_itself_takes_the_place() -> None:
    model = on_meta(two_linears())
    model[0].weight.requires_grad_(False)
    value = torch.randn(WIDTH, WIDTH)
    missing = fill_(model, {"0.weight": value, "0.bias": value[0]})
    assert missing == ["2.weight", "2.bias"]
    assert model[0].weight.data_ptr() == value.data_ptr()
    assert (model[0].weight.requires_grad, model[0].bias.requires_grad) == (False, True)


def test_what_is_tied_stays_tied_and_only_that() -> None:
    tied = on_meta(LanguageModel())
    tied.head.weight = tied.embedding.weight
    value = torch.randn(300, WIDTH)
    fill_(tied, {"embedding.weight": value})
    assert tied.head.weight is tied.embedding.weight
    apart = on_meta(two_linears())
    value = torch.randn(WIDTH, WIDTH)
    fill_(apart, {"0.weight": value, "2.weight": value})
    assert apart[0].weight.data_ptr() != apart[2].weight.data_ptr()
    assert torch.equal(apart[0].weight, apart[2].weight)


@pytest.mark.parametrize("meta", [False, True])
def test_buffers_and_wrappers(meta: bool) -> None:
    model = nn.DataParallel(nn.Sequential(nn.BatchNorm1d(3)))
    if meta:
        on_meta(model)
    count = torch.tensor(7)
    missing = fill_(model, {"0.num_batches_tracked": count, "0.running_mean": torch.ones(3)})
    assert int(model.module[0].num_batches_tracked) == 7
    assert model.module[0].running_mean.tolist() == [1, 1, 1]
    assert isinstance(model.module[0].running_mean, torch.Tensor)
    assert not isinstance(model.module[0].running_mean, nn.Parameter)
    assert bool(missing) == meta
