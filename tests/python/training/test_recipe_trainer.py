"""A small network through all phases of a recipe."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tersor
from tersor.training.learning_rates import CosineRate
from tersor.training.loop import Examples
from tersor.training.recipe import Recipe
from tersor.training.recipe_trainer import Progress, RecipeTrainer, encoded_bytes

INPUTS, CLASSES, COUNT = 20, 4, 96
RECIPE = Recipe(
    density=0.25,
    prune_epochs=4,
    codebook_epochs=2,
    assignment_epochs=2,
    prune_rate=CosineRate(5e-3),
    assignment_rate=CosineRate(2e-3),
    codebook_rate=CosineRate(2e-3),
    codebook_size=7,
    batch_size=8,
)


class Small(RecipeTrainer):
    """Learns to answer as its teacher does; notes which epochs were drawn."""

    def __init__(self, recipe: Recipe, state: Path | None = None) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(INPUTS, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, CLASSES)
        )
        self.inputs = torch.randn(COUNT, INPUTS)
        self.drawn: list[int] = []
        self.seen: list[Progress] = []
        super().__init__(
            copy.deepcopy(model),
            model,
            recipe,
            sample=[self.inputs[:16]],
            state=state,
            progress=self.seen.append,
        )

    def draw(self, epoch: int) -> Examples:
        self.drawn.append(epoch)
        order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(epoch))
        targets = self.teach(self.inputs)
        return Examples(self.inputs, targets.argmax(1), order, targets)


def values_of(compressor: RecipeTrainer) -> list[int]:
    return [len(w[w != 0].unique()) for w in compressor.weights.values()]


def test_all_phases_leave_a_pruned_and_quantized_network() -> None:
    compressor = Small(RECIPE)
    model = compressor.run()
    assert compressor.density() == pytest.approx(0.25, abs=0.01)
    assert all(count <= 7 for count in values_of(compressor))
    assert [(p.phase, p.epoch, p.epochs) for p in compressor.seen] == [
        *(("pruning", e + 1, 4) for e in range(4)),
        *(("assignments", e + 1, 2) for e in range(2)),
        *(("codebooks", e + 1, 2) for e in range(2)),
    ]
    assert compressor.drawn == [0, 1, 2, 3, 6, 7, 4, 5]
    assert compressor.seen[0].density > compressor.seen[3].density == compressor.density()
    last = compressor.seen[-1]
    assert last.nbytes == encoded_bytes(model, 255)
    assert str(last).startswith("codebooks, epoch 2/2: loss ")
    kept = {name: w.detach().clone() for name, w in compressor.weights.items()}
    compressed = tersor.compress_(model.eval())
    x = torch.randn(5, INPUTS)
    expected = tersor.decompress_(copy.deepcopy(compressed))
    for name, w in expected.named_parameters():
        if name in kept:
            assert torch.equal(w, kept[name]), name  # quantized already: nothing is lost
    torch.testing.assert_close(compressed(x), expected(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quantizer", ["kmeans", "hessian", "uniform", "ecsq"])
def test_quantizers_have_one_codebook_over_all_layers(quantizer: str) -> None:
    compressor = Small(dataclasses.replace(RECIPE, quantizer=quantizer, prune_epochs=1))
    compressor.prune()
    before = {name: w.detach().clone() for name, w in compressor.weights.items()}
    quantized = compressor.quantize()
    assert all(torch.equal(w, compressor.weights[name]) for name, w in before.items())
    entries = [q.dense()[q.codes != 0] for q in quantized.values()]
    joint = np.unique(np.concatenate(entries))
    sizes = [len(np.unique(e)) for e in entries]
    assert len(joint) < sum(sizes)


def test_bits_bound_the_entropy() -> None:
    found = []
    for bits in (1.5, 3.0):
        compressor = Small(
            dataclasses.replace(RECIPE, quantizer="uniform", bits=bits, prune_epochs=1)
        )
        compressor.prune()
        entries = [q.values for q in compressor.quantize().values()]
        found.append(len(np.unique(np.concatenate(entries))))
    assert found[0] < found[1]


def test_biases_have_codebooks_if_the_recipe_says_so() -> None:
    compressor = Small(dataclasses.replace(RECIPE, bias_codebook_size=3, assignment_epochs=0))
    model = compressor.run()
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    assert all(len(b[b != 0].unique()) <= 3 for b in biases)


def test_without_a_codebook_rate_one_schedule_spans_both_phases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, int]] = []

    class Noted(CosineRate):
        def __call__(self, at: object) -> float:
            seen.append((at.epoch, at.epochs))  # type: ignore[attr-defined]
            return super().__call__(at)  # type: ignore[arg-type]

    recipe = dataclasses.replace(
        RECIPE, prune_rate=Noted(5e-3), codebook_rate=None, assignment_epochs=0
    )
    compressor = Small(recipe)
    compressor.run()
    assert sorted(set(seen)) == [(epoch, 6) for epoch in range(6)]
    assert compressor.drawn == list(range(6))


def test_examples_without_targets_are_refused() -> None:
    class Untaught(Small):
        def draw(self, epoch: int) -> Examples:
            return dataclasses.replace(super().draw(epoch), targets=None)

    with pytest.raises(ValueError, match=r"draw\(\) gave no targets: take them from teach"):
        Untaught(RECIPE).prune()


def test_quantizers_share_a_pruned_network_and_other_recipes_do_not(tmp_path: Path) -> None:
    state = tmp_path / "run.pt"
    first = Small(dataclasses.replace(RECIPE, quantizer="ecsq"), state)
    first.prune()
    second = Small(dataclasses.replace(RECIPE, quantizer="uniform", bits=2.0), state)
    second.prune()
    assert second.drawn == []
    for name, w in first.weights.items():
        assert torch.equal(second.weights[name], w)
    with pytest.raises(ValueError, match=r"run.pt: is of a run with the settings .* delete"):
        Small(dataclasses.replace(RECIPE, density=0.5), state).prune()


@pytest.mark.slow
@pytest.mark.parametrize("epochs_before", range(8))
def test_a_stopped_run_ends_as_one_that_was_not(tmp_path: Path, epochs_before: int) -> None:
    whole = Small(RECIPE)
    whole.run()

    class StoppedError(Exception):
        pass

    class Stopping(Small):
        def draw(self, epoch: int) -> Examples:
            if len(self.drawn) == epochs_before:
                raise StoppedError
            return super().draw(epoch)

    stopped = Stopping(RECIPE, tmp_path / "run.pt")
    with pytest.raises(StoppedError):
        stopped.run()
    resumed = Small(RECIPE, tmp_path / "run.pt")
    resumed.run()
    assert stopped.drawn + resumed.drawn == whole.drawn
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
