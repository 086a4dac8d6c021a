"""From a dense weight to a layer, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tersor import LayerConfig
from tersor.quantize import compress_weight, decompress_layer


def test_default_config_keeps_zeros_and_shares_losslessly_what_is_shared() -> None:
    weight = torch.randn(20, 30) * (torch.rand(20, 30) < 0.3)
    back = decompress_layer(compress_weight(weight, LayerConfig()))
    assert np.array_equal(back == 0, (weight == 0).numpy())
    assert len(np.unique(back)) <= 16
    again = decompress_layer(compress_weight(torch.from_numpy(back).double(), LayerConfig()))
    assert np.array_equal(again, back)


@pytest.mark.parametrize("kind", ["plain_fp32", "plain_fp16", "shared_fp16"])
def test_other_kinds(kind: str) -> None:
    weight = torch.randn(6, 50)[:, ::2].half().float()
    layer = compress_weight(weight, LayerConfig(kind=kind, density=0.5, values=200))
    back = torch.from_numpy(decompress_layer(layer))
    assert int((back != 0).sum()) == 75
    assert torch.equal(back[back != 0], weight[back != 0])


@pytest.mark.parametrize(
    "wrong", [{"mode": "fast"}, {"precision": "fp8"}, {"kind": "dense"}, {"values": 256}]
)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        LayerConfig(**wrong)
