"""Pruning and shared weights within a training loop of one's own.

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

from tersor._validation import check_finite
from tersor.config import Config
from tersor.nn.registry import handler_of, why_not
from tersor.pipeline.compress import compress_
from tersor.pruning.masks import Masks, density_masks
from tersor.pruning.optimizer_hooks import before_step
from tersor.pruning.schedules import CubicSchedule
from tersor.quantizers.kmeans import quantize_kmeans


@dataclass(frozen=True)
class Schedule:
    """When weights are pruned and shared, in steps of the optimizer.

    Attributes:
        density: share of the weights kept in the end, over all layers, 0 to 1, 0 excluded.
        prune_begin, prune_end: the density falls between these steps, fast at first.
        prune_every: steps from one choice of what is kept to the next.
        share_at: the step after which each layer has ``codebook_size`` values, which are trained
            from there on; None = weights are pruned and stay free.
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


class Compressor:
    """Prunes and shares a model's weights while any loop trains it.

    ::

        compressor = Compressor(model, Schedule(density=0.1, prune_end=2000, share_at=3000))
        compressor.attach(optimizer)
        ...  # the loop as it was
        tersor.save(compressor.finish(), "small.safetensors")

    Everything happens in hooks of the optimizer's step, so that learning rates, gradient clipping,
    accumulation and mixed precision stay as they are. Shared weights stay parameters of the model:
    before a step each gets the sum of its group's gradients, and after it the mean of its group,
    which is the same number for every optimizer that treats elements alike. In distributed data
    parallel training all ranks do the same.

    Args:
        model: whose weights of supported layers are pruned and shared.
        schedule: when.
        select: ``(module, name) -> bool``: which layers; None = all.

    Raises:
        ValueError: no layer can be compressed.

    Attributes:
        weights: by name.
        step: how many steps the optimizer has made.
    """

    def __init__(
        self,
        model: nn.Module,
        schedule: Schedule,
        select: Callable[[nn.Module, str], bool] | None = None,
    ) -> None:
        self.model, self.schedule = model, schedule
        self.weights = dict(_weights(model, select))
        if not self.weights:
            raise ValueError("the model has no layer that can be compressed, or none is selected")
        self.step = 0
        self._masks = Masks(self.weights)
        self._codes: dict[str, torch.Tensor] = {}
        self._hooks: list[Any] = []

    def attach(self, optimizer: torch.optim.Optimizer) -> Compressor:
        """Follows the steps of an optimizer from now on.

        Raises:
            RuntimeError: it follows one already.
            ValueError: the optimizer does not train one of the weights; the message has its name.
        """
        if self._hooks:
            raise RuntimeError("the compressor is attached already: call detach() first")
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, weight in self.weights.items():
            if id(weight) not in trained:
                raise ValueError(
                    f"the optimizer does not train {name}: make it of the model's parameters, "
                    "after the model is on its device, or leave the layer out with select="
                )
        self._hooks = [
            before_step(optimizer, self._before_step),
            optimizer.register_step_post_hook(lambda done, *_: self._after_step(done)),
        ]
        return self

    def detach(self) -> None:
        """Follows no optimizer any longer; the weights stay as they are."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def finish(self, config: Config | None = None) -> nn.Module:
        """Ends training: the model in its compressed form, with exactly these weights.

        Args:
            config: other settings than those that keep every value.
        """
        self.detach()
        return compress_(self.model, config or Config.lossless_codes())

    @property
    def density(self) -> float:
        """Share of the weights that are kept now."""
        return self._masks.density()

    @property
    def shared(self) -> bool:
        """Whether weights are shared by now."""
        return bool(self._codes)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the model's and the optimizer's states."""
        return {
            "schedule": asdict(self.schedule),
            "step": self.step,
            "masks": self._masks.state_dict(),
            "codes": {name: codes.to(torch.uint8) for name, codes in self._codes.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint, whose model is loaded already.

        Raises:
            ValueError: it is of another schedule or of other weights; nothing was changed.
        """
        if state["schedule"] != asdict(self.schedule):
            raise ValueError(f"the checkpoint is of another schedule: {state['schedule']}")
        codes = state["codes"]
        if codes and codes.keys() != self.weights.keys():
            raise ValueError(f"the checkpoint is of other weights: {sorted(codes)}")
        self._masks.load_state_dict(state["masks"])
        self.step = int(state["step"])
        self._codes = {n: c.long().to(self.weights[n].device) for n, c in codes.items()}

    @torch.no_grad()
    def _before_step(self) -> None:
        self._masks.apply_to_gradients_()
        for name, codes in self._codes.items():
            gradient = self.weights[name].grad
            if gradient is not None:
                gradient.copy_(_sums(gradient, codes, self.schedule.codebook_size)[codes])

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.step += 1
        at = self.schedule
        self._masks.apply_()
        due = (self.step - at.prune_begin) % at.prune_every == 0 or self.step == at.prune_end
        if at.prune_begin < self.step <= at.prune_end and due:
            falling = CubicSchedule(at.density, at.prune_end, begin=at.prune_begin)
            scores = {name: w.detach().abs() for name, w in self.weights.items()}
            self._masks.set(density_masks(scores, falling.density(self.step)))
        if self._codes:
            self._average({name: [w] for name, w in self.weights.items()})
        elif self.step == at.share_at:
            self._share(optimizer)

    def _share(self, optimizer: torch.optim.Optimizer) -> None:
        """Groups the weights of each layer by value, and what the optimizer keeps of them."""
        for name, weight in self.weights.items():
            check_finite(weight, name)
            values = weight.float().cpu().numpy()
            made = quantize_kmeans({name: values}, self.schedule.codebook_size)[name]
            self._codes[name] = torch.from_numpy(made.codes).long().to(weight.device)
        kept = {
            name: [
                value
                for value in optimizer.state.get(weight, {}).values()
                if isinstance(value, torch.Tensor) and value.shape == weight.shape
            ]
            for name, weight in self.weights.items()
        }
        self._average({name: [w, *kept[name]] for name, w in self.weights.items()})

    def _average(self, tensors: Mapping[str, list[Any]]) -> None:
        """Gives each element the mean of its group; what is pruned is 0."""
        size = self.schedule.codebook_size
        for name, codes in self._codes.items():
            ones = torch.ones(codes.shape, device=codes.device)
            count = _sums(ones, codes, size).clamp(min=1)
            for tensor in tensors[name]:
                means = _sums(tensor, codes, size) / count
                tensor.copy_(means[codes])


def _sums(values: torch.Tensor, codes: torch.Tensor, size: int) -> torch.Tensor:
    """Sums by code, float32 ``[size + 1]``; that of code 0, pruned, is 0."""
    sums = torch.zeros(size + 1, device=values.device)
    sums.index_add_(0, codes.reshape(-1), values.detach().reshape(-1).float())
    sums[0] = 0
    return sums


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
