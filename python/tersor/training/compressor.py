"""Pruning and shared weights within a training loop: what is done to weights, and when.

Sources: Han et al. 2015 (arXiv 1506.02626), section 3, and Deep Compression (arXiv 1510.00149),
section 3: the gradient of a shared value is the sum of its members' gradients; Zhu and Gupta 2017
(arXiv 1710.01878), the gradual schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from tersor.config import Config
from tersor.nn.registry import handler_of, why_not
from tersor.pipeline.compress import compress_
from tersor.pruning.masks import Masks, density_masks
from tersor.pruning.optimizer_hooks import before_step
from tersor.pruning.schedules import CubicSchedule
from tersor.quantizers.base import Quantized
from tersor.quantizers.kmeans import quantize_kmeans
from tersor.training.assignments import TrainedAssignments
from tersor.training.codebooks import SharedWeights

Scores = Callable[[Mapping[str, nn.Parameter], torch.optim.Optimizer], Mapping[str, torch.Tensor]]


def magnitudes(
    weights: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """Importance of each weight for pruning: its magnitude."""
    return {name: w.detach().abs() for name, w in weights.items()}


@dataclass(frozen=True)
class Schedule:
    """When weights are pruned and shared, in steps of the optimizer.

    Attributes:
        density: share of the weights kept in the end, over all layers, 0 to 1, 0 excluded.
        prune_begin, prune_end: the density falls between these steps, fast at first.
        prune_every: steps from one choice of what is kept to the next.
        share_at: the step after which each layer has ``codebook_size`` values, which are trained
            from there on; None = weights are pruned and stay free.
        assign_at: the step after which each layer has its values already, and which of them each
            weight takes is trained until ``share_at``; None = that is not trained.
        codebook_size: non-zero values of a layer, 1 to 255.

    Raises:
        ValueError: a number is out of range, or weights are shared before pruning ends.
    """

    density: float
    prune_end: int
    share_at: int | None = None
    prune_begin: int = 0
    prune_every: int = 16
    codebook_size: int = 15
    assign_at: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.density <= 1.0:
            raise ValueError(f"density must be above 0, 1 at most, not {self.density}")
        if not 1 <= self.codebook_size <= 255:
            raise ValueError(f"codebook_size must be 1 to 255, not {self.codebook_size}")
        if self.prune_every < 1:
            raise ValueError(f"prune_every must be 1 or more, not {self.prune_every}")
        if not 0 <= self.prune_begin <= self.prune_end:
            raise ValueError(
                f"prune_begin must be 0 to prune_end, {self.prune_end}, not {self.prune_begin}"
            )
        if self.density < 1.0 and self.prune_begin == self.prune_end:
            raise ValueError(
                f"prune_end must be after prune_begin, {self.prune_begin}: between them weights "
                f"are pruned to density {self.density}"
            )
        if self.share_at is not None and self.share_at < self.prune_end:
            raise ValueError(
                f"share_at is {self.share_at}, before pruning ends at {self.prune_end}"
            )
        if self.assign_at is not None and not (
            self.share_at is not None and self.prune_end <= self.assign_at < self.share_at
        ):
            raise ValueError(
                f"assign_at must be from prune_end, {self.prune_end}, to before share_at, "
                f"{self.share_at}, not {self.assign_at}"
            )

    def density_at(self, step: int) -> float | None:
        """The density that weights are pruned to after a step, from 1; None = not after this."""
        if not self.prune_begin < step <= self.prune_end:
            return None
        if step < self.prune_end and (step - self.prune_begin) % self.prune_every:
            return None
        return CubicSchedule(self.density, self.prune_end, begin=self.prune_begin).density(step)


class Compressor:
    """Prunes and shares a model's weights while any loop trains it.

    ::

        compressor = Compressor(model, Schedule(density=0.1, prune_end=2000, share_at=3000))
        compressor.attach(optimizer)
        ...  # the loop as it was
        tersor.save(compressor.finish(), "small.safetensors")

    Everything happens in hooks of the optimizer's step, so that learning rates, gradient clipping,
    accumulation and mixed precision stay as they are. Shared weights stay parameters of the model:
    before a step each gets the sum of its group's gradients, and after it moves as its group does
    in the mean, which is the same for every optimizer that treats elements alike. In distributed
    data parallel training all ranks do the same.

    Without a schedule the loop decides: :meth:`prune`, then :meth:`assign` and :meth:`share`.

    Args:
        model: whose weights of supported layers are pruned and shared.
        schedule: when; None = when it is told to.
        select: ``(module, name) -> bool``: which layers; None = all.
        scores: importance of each weight for pruning, of the weights by name and their optimizer.

    Raises:
        ValueError: no layer can be compressed.

    Attributes:
        weights: by name.
        masks: which of them are kept, while they are pruned.
        step: how many steps the optimizer has made.
    """

    def __init__(
        self,
        model: nn.Module,
        schedule: Schedule | None = None,
        select: Callable[[nn.Module, str], bool] | None = None,
        *,
        scores: Scores = magnitudes,
    ) -> None:
        self.model, self.schedule, self.scores = model, schedule, scores
        self.weights = dict(_weights(model, select))
        if not self.weights:
            raise ValueError("the model has no layer that can be compressed, or none is selected")
        self.step = 0
        self.masks = Masks(self.weights)
        self._stage: Masks | TrainedAssignments | SharedWeights = self.masks
        self._optimizer: torch.optim.Optimizer | None = None
        self._hooks: list[Any] = []

    def attach(self, optimizer: torch.optim.Optimizer) -> Compressor:
        """Follows the steps of an optimizer of the weights, or of their codebooks, from now on.

        Raises:
            RuntimeError: it follows one already.
            ValueError: the optimizer does not train one of the weights; the message has its name.
        """
        if self._hooks:
            raise RuntimeError("the compressor is attached already: call detach() first")
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        codebooks = self._stage.codebooks if isinstance(self._stage, SharedWeights) else {}
        for name, weight in self.weights.items():
            if trained.isdisjoint((id(weight), id(codebooks.get(name)))):
                raise ValueError(
                    f"the optimizer does not train {name}: make it of the model's parameters, "
                    "after the model is on its device, or leave the layer out with select="
                )
        if isinstance(self._stage, SharedWeights):
            self._stage.follow(optimizer)
        self._optimizer = optimizer
        self._hooks = [
            before_step(optimizer, lambda: self._stage.before_step()),
            optimizer.register_step_post_hook(lambda *_: self._after_step()),
        ]
        return self

    def detach(self) -> None:
        """Follows no optimizer any longer; the weights stay as they are."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._optimizer = [], None

    def prune(self, density: float) -> None:
        """Keeps a share of the weights, over all layers; call it between steps.

        Raises:
            RuntimeError: no optimizer is followed, or weights are shared by now.
        """
        if self._optimizer is None or self.shared:
            raise RuntimeError("only weights that an optimizer trains freely can be pruned")
        self.masks.set(density_masks(self.scores(self.weights, self._optimizer), density))

    def cluster(self, codebook_size: int) -> dict[str, Quantized]:
        """K-means of each weight as it is, for :meth:`assign` and :meth:`share`."""
        weights = {n: w.detach().float().cpu().numpy() for n, w in self.weights.items()}
        return quantize_kmeans(weights, codebook_size)

    def assign(self, quantized: Mapping[str, Quantized]) -> None:
        """Gives layers their values, and trains which of them each weight takes.

        Args:
            quantized: codes and codebook of each weight, as of :mod:`tersor.quantizers`.
        """
        self._stage = TrainedAssignments(self.weights, quantized)

    def assigned(self) -> dict[str, Quantized]:
        """What :meth:`assign` has come to, for :meth:`share`.

        Raises:
            RuntimeError: it was not called.
        """
        if isinstance(self._stage, TrainedAssignments):
            return self._stage.shared()
        raise RuntimeError("which value each weight takes is not trained: call assign() first")

    def share(self, quantized: Mapping[str, int | Quantized]) -> SharedWeights:
        """Gives layers their values, which are trained from now on.

        Args:
            quantized: see :class:`SharedWeights`; other parameters of the model may be among them.
        """
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        shared = SharedWeights({n: parameters[n] for n in {**self.weights, **quantized}}, quantized)
        if self._optimizer is not None:
            shared.follow(self._optimizer)
        self._stage = shared
        return shared

    def finish(self, config: Config | None = None) -> nn.Module:
        """Ends training: the model in its compressed form, with exactly these weights.

        Args:
            config: other settings than those that keep every value.
        """
        self.detach()
        return compress_(self.model, config or Config.lossless_codes())

    @property
    def density(self) -> float:
        """Share of the weights that are not zero."""
        kept = sum(int(w.detach().count_nonzero()) for w in self.weights.values())
        return kept / max(1, sum(w.numel() for w in self.weights.values()))

    @property
    def shared(self) -> bool:
        """Whether weights are shared by now."""
        return self._stage is not self.masks

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the model's and the optimizer's states."""
        stage = self._stage
        state: dict[str, Any] = {
            "schedule": self.schedule and asdict(self.schedule),
            "step": self.step,
            "masks": self.masks.state_dict(),
            "codes": {},
            "codebooks": {},
            "free": {},
        }
        if isinstance(stage, SharedWeights):
            state |= stage.state_dict()
        elif isinstance(stage, TrainedAssignments):
            for name, given in stage.quantized.items():
                state["codes"][name] = torch.from_numpy(given.codes)
                state["codebooks"][name] = torch.from_numpy(given.codebook())
            state["free"] = stage.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint, whose model is loaded already.

        Raises:
            ValueError: it is of another schedule or of other weights; nothing was changed.
        """
        if state["schedule"] != (self.schedule and asdict(self.schedule)):
            raise ValueError(f"the checkpoint is of another schedule: {state['schedule']}")
        stage, codebooks = self._stage, state["codebooks"]
        given = {
            name: Quantized(codes.cpu().numpy(), codebooks[name][1:].cpu().numpy())
            for name, codes in state["codes"].items()
        }
        if state["free"]:
            trained = TrainedAssignments(self.weights, given)
            trained.load_state_dict(state["free"])
            self._stage = trained
        elif given:
            # What is there already stays the same object: an optimizer may have its codebooks.
            shared = stage if isinstance(stage, SharedWeights) else self.share(given)
            shared.load_state_dict(state)
        else:
            self.masks.load_state_dict(state["masks"])
            self._stage = self.masks
        self.step = int(state["step"])

    def _after_step(self) -> None:
        self.step += 1
        self._stage.after_step()
        at = self.schedule
        if at is None:
            return
        if (density := at.density_at(self.step)) is not None:
            self.prune(density)
        if self.step == at.assign_at:
            self.assign(self.cluster(at.codebook_size))
        if self.step == at.share_at:
            assigned = at.assign_at is not None
            self.share(self.assigned() if assigned else self.cluster(at.codebook_size))


def _weights(
    model: nn.Module, select: Callable[[nn.Module, str], bool] | None
) -> dict[str, nn.Parameter]:
    """The weights of the layers that can be compressed, each once; of embeddings none."""
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        handler = handler_of(module)
        if handler is None or why_not(module) is not None or handler.settings == "embedding":
            continue
        if select is not None and not select(module, name):
            continue
        for leaf in handler.shapes(module):
            weight = module._parameters.get(leaf)
            if weight is None or weight.dim() < 2 or not weight.requires_grad:
                continue
            if id(weight) not in seen:
                seen.add(id(weight))
                found[f"{name}.{leaf}" if name else leaf] = weight
    return found
