"""What docs/training.md shows is run, with the trainers that it names."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from lightning.pytorch import LightningModule

import tersor
from tersor.codec.blob import CompressedTensor
from tests.docs import stand_ins
from tests.docs.blocks import blocks

PYTHON = blocks("docs/training.md", "python")


@pytest.fixture(name="names")
def _names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    from tersor.training import Compressor, Schedule

    schedule = Schedule(density=0.1, prune_end=40, share_at=60)
    known = {"Compressor": Compressor, "Schedule": Schedule, "schedule": schedule}
    return stand_ins.names() | known


def layers(path: str = "small.safetensors") -> Iterator[CompressedTensor]:
    return iter(tersor.load_file(path).layers.values())


def kept(found: Iterator[CompressedTensor]) -> float:
    """Share of the weights that are not 0; each layer has 15 values at most."""
    some = list(found)
    assert all(layer.values.size <= 15 for layer in some)
    codes = sum(int(layer.csr.codes.astype(bool).sum()) for layer in some)
    return codes / sum(layer.shape[0] * layer.csr.cols for layer in some)


class Module(LightningModule):
    """Stands for the reader's module."""

    def __init__(self) -> None:
        super().__init__()
        self.network = stand_ins.MyNetwork()

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        wanted = batch.mean((1, 2, 3))[:, None].expand(len(batch), 10)
        return torch.nn.functional.mse_loss(self.network(batch), wanted)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def test_any_loop(names: dict[str, Any]) -> None:
    PYTHON[0].run(names)
    assert kept(layers()) == pytest.approx(0.1, abs=1e-3)


def test_the_loop_decides(names: dict[str, Any]) -> None:
    PYTHON[1].run(names)
    tersor.save(names["compressor"].finish(), "small.safetensors")
    assert kept(layers()) == pytest.approx(0.1, abs=1e-3)


def test_a_stopped_run_resumes(names: dict[str, Any]) -> None:
    at_start = copy.deepcopy(names["model"])
    PYTHON[2].run(names)
    assert names["compressor"].step == 100  # 50 again, from the checkpoint
    assert names["compressor"].shared
    assert not torch.equal(at_start.body.weight, names["model"].body.weight)


def test_transformers(names: dict[str, Any]) -> None:
    stand_ins.write_bert(Path("dense"))
    bert = transformers.BertForSequenceClassification.from_pretrained("dense")
    ids = torch.randint(0, 300, (32, 8))
    names["bert"] = bert
    names["examples"] = [{"input_ids": row, "labels": int(row[0]) % 2} for row in ids]
    names["arguments"] = transformers.TrainingArguments(
        "out", max_steps=10, per_device_train_batch_size=4, report_to=[], use_cpu=True
    )
    PYTHON[3].run(names)
    report = tersor.report(transformers.AutoModel.from_pretrained("small"))
    linear = [layer for layer in report.layers if layer.kind == "Linear"]
    weights = sum(layer.weights for layer in linear)
    # Of all that were pruned; the classifier is not part of this model.
    assert sum(layer.density * layer.weights for layer in linear) / weights == pytest.approx(
        0.2, abs=0.01
    )


def test_lightning(names: dict[str, Any]) -> None:
    names["module"] = Module()
    names["batches"] = torch.utils.data.DataLoader(names["inputs"], batch_size=8)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    names["options"] = quiet | {"max_steps": 10, "accelerator": "cpu"}
    PYTHON[4].run(names)
    assert kept(layers()) == pytest.approx(0.2, abs=1e-3)


def test_all_blocks_have_a_test() -> None:
    assert len(PYTHON) == 5
