"""A Compressor in Lightning's trainer: the same as in a loop by hand, and resumed alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from tersor.integrations.lightning import CompressorCallback
from tersor.training import Compressor, Schedule

SCHEDULE = Schedule(density=0.3, prune_end=6, share_at=8, prune_every=2, codebook_size=7)
BATCHES = [torch.randn(8, 12, generator=torch.Generator().manual_seed(i)) for i in range(16)]


class Module(LightningModule):
    """Two layers that learn the mean of their input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 1))

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(self.net(batch), batch.mean(1, keepdim=True))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-2)


def fit(folder: Path, steps: int, resume: Path | None = None, **options: Any) -> Compressor:
    """Trains for ``steps`` in all."""
    module = Module()
    compressor = Compressor(module, SCHEDULE)
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
        callbacks=[
            CompressorCallback(compressor),
            ModelCheckpoint(folder, filename="at-{step}", every_n_train_steps=5, save_top_k=-1),
        ],
        **options,
    )  # fmt: skip
    data = torch.utils.data.DataLoader(BATCHES, batch_size=None)
    trainer.fit(module, data, ckpt_path=resume, weights_only=False)
    return compressor


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_does_what_a_loop_by_hand_does(tmp_path: Path) -> None:
    module = Module()
    optimizer = module.configure_optimizers()
    by_hand = Compressor(module, SCHEDULE).attach(optimizer)
    for batch in BATCHES[:12]:
        optimizer.zero_grad()
        module.training_step(batch).backward()
        optimizer.step()
    compressor = fit(tmp_path, 12)
    assert same(compressor.weights, by_hand.weights)
    assert compressor.step == 12
    assert all(len(w.unique()) <= 8 for w in compressor.weights.values())


@pytest.mark.parametrize("stopped", [5, 10])  # while pruning; with shared weights
def test_a_checkpoint_resumes(stopped: int, tmp_path: Path) -> None:
    whole = fit(tmp_path, 14)
    resumed = fit(tmp_path / "again", 14, tmp_path / f"at-step={stopped}.ckpt")
    assert same(whole.weights, resumed.weights)


def test_it_follows_the_optimizer_that_trains_the_weights(tmp_path: Path) -> None:
    class Two(Module):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.scale = nn.Parameter(torch.ones(1))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([self.scale], 0.1), super().configure_optimizers()

        def training_step(self, batch: torch.Tensor) -> None:
            first, second = self.optimizers()
            second.zero_grad()
            loss = nn.functional.mse_loss(self.scale * self.net(batch), batch.mean(1, keepdim=True))
            self.manual_backward(loss)
            first.step()
            second.step()

    module = Two()
    compressor = Compressor(module.net, SCHEDULE)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
        callbacks=[CompressorCallback(compressor)],
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(BATCHES, batch_size=None))
    assert compressor.step == len(BATCHES)


def test_an_error_detaches_it(tmp_path: Path) -> None:
    class Broken(Module):
        def training_step(self, batch: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("as it happens")

    module = Broken()
    compressor = Compressor(module, SCHEDULE)
    trainer = Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
        callbacks=[CompressorCallback(compressor)],
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="as it happens"):
        trainer.fit(module, torch.utils.data.DataLoader(BATCHES, batch_size=None))
    compressor.attach(module.configure_optimizers())  # free for another one
