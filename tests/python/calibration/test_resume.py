"""An interrupted calibration continues from what it has kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import tersor
from tersor import Config, LayerConfig
from tersor.calibration import compensation, quantize
from tersor.calibration.resume import Results

CONFIG = Config(linear=LayerConfig(method="ecsq", prune=True, bits=2.0, codebook_size=31))


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 9)
    )


def data(seed: int = 1) -> list[torch.Tensor]:
    return [torch.randn(64, 48, generator=torch.Generator().manual_seed(seed))]


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tersor.compress_(model(), CONFIG, data=data())
    done: list[str] = []

    def stop(line: str) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt

    def counted(*arguments: object) -> quantize.Scaled:
        done.append(str(arguments[3]))
        return quantize.compensate(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(compensation, "compensate", counted)
    with pytest.raises(KeyboardInterrupt):
        tersor.compress_(model(), CONFIG, data=data(), checkpoint_dir=tmp_path, progress=stop)
    assert done == ["0", "2"]
    made = tersor.compress_(model(), CONFIG, data=data(), checkpoint_dir=tmp_path)
    assert done == ["0", "2", "4"]
    for name, value in made.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name])
    # Of other inputs nothing is known.
    tersor.compress_(model(), CONFIG, data=data(2), checkpoint_dir=tmp_path)
    assert done == 2 * ["0", "2", "4"]


def test_a_result_is_found_by_all_that_it_follows_from(tmp_path: Path) -> None:
    def found(*parts: object, batches: list[torch.Tensor]) -> bool:
        results = Results(tmp_path, batches)
        results.next_is(*parts)
        return results.load() is not None

    results = Results(tmp_path, data())
    results.next_is("a", torch.ones(3))
    results.save({"values": torch.arange(3)})
    assert found("a", torch.ones(3), batches=data())
    assert not found("b", torch.ones(3), batches=data())
    assert not found("a", torch.zeros(3), batches=data())
    assert not found("a", torch.ones(3), batches=data(2))
