"""Pruning during training: masks, and optimizer hooks that keep pruned weights at zero.

Distributed data parallel training needs nothing more: masks follow from weights, averaged gradients
and optimizer state, which are the same on every rank.

Sources: Han et al. 2015 (arXiv 1506.02626), section 3; Zhu and Gupta 2017 (arXiv 1710.01878), the
gradual schedule.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from tersor._validation import check_finite
from tersor.pruning.optimizer_hooks import AroundSteps


def threshold_mask(weight: torch.Tensor, s: float, name: str = "weight") -> torch.Tensor:
    """Keeps weights larger than s standard deviations of their layer: bool, of the weight's shape.

    Raises:
        ValueError: the weight contains NaN or infinity; the message names the weight.
    """
    check_finite(weight.detach(), name)
    return weight.detach().abs() > s * weight.detach().std(correction=0)


def density_masks(
    scores: Mapping[str, torch.Tensor], density: float | Mapping[str, float]
) -> dict[str, torch.Tensor]:
    """Keeps the fraction ``density`` of the weights with the highest scores.

    Args:
        scores: non-negative importance by name.
        density: 0 to 1, over all layers with one threshold; or by name, per layer.

    Returns:
        bool masks, of the shapes of the scores, with exactly ``round(density * total)`` ones.

    Raises:
        ValueError: a density is out of range or missing, or a score is NaN or infinite.
    """
    if not isinstance(density, (int, float)):
        if missing := sorted(scores.keys() - density.keys()):
            raise ValueError(f"no density is given for {missing}")
        return {
            name: density_masks({name: score}, density[name])[name]
            for name, score in scores.items()
        }
    if not 0.0 <= density <= 1.0:
        raise ValueError(f"density must be 0 to 1, not {density}")
    for name, score in scores.items():
        check_finite(score.detach(), name, "score")
    flat = torch.cat([score.detach().reshape(-1) for score in scores.values()])
    kept = torch.zeros_like(flat, dtype=torch.bool)
    kept[torch.topk(flat, round(density * flat.numel()), sorted=False).indices] = True
    parts = kept.split([score.numel() for score in scores.values()])
    return {
        name: part.reshape(score.shape)
        for (name, score), part in zip(scores.items(), parts, strict=True)
    }


class Masks(AroundSteps):
    """Pruning masks of parameters, enforced during training.

    Once attached to an optimizer, each step first zeroes the gradients of pruned weights (so that
    no momentum builds up) and afterwards the pruned weights themselves.

    Args:
        parameters: the parameters to prune, by name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        self.masks = {
            name: torch.ones_like(p, dtype=torch.bool) for name, p in self.parameters.items()
        }

    def set(self, masks: Mapping[str, torch.Tensor]) -> None:
        """Replaces masks and zeroes the weights that they prune.

        Args:
            masks: bool by name, of the shapes of the parameters.

        Raises:
            ValueError: a name is unknown or a shape differs; no mask is replaced then.
        """
        for name, mask in masks.items():
            if name not in self.parameters:
                raise ValueError(f"no parameter is named '{name}'")
            if mask.shape != self.parameters[name].shape:
                raise ValueError(
                    f"{name}: the mask has shape {tuple(mask.shape)}, "
                    f"expected {tuple(self.parameters[name].shape)}"
                )
        for name, mask in masks.items():
            # In place where possible: a captured CUDA graph keeps reading the same memory.
            self.masks[name] = self.masks[name].to(self.parameters[name].device).copy_(mask)
        self.apply_()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The masks by name, for a checkpoint."""
        return dict(self.masks)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores the masks of a checkpoint and zeroes the weights that they prune.

        Raises:
            ValueError: a name is missing or unknown, or a shape differs; no mask is replaced then.
        """
        if missing := sorted(self.masks.keys() - state.keys()):
            raise ValueError(f"missing masks in state_dict: {missing}")
        self.set(state)

    @torch.no_grad()
    def apply_(self) -> None:
        """Zeroes the pruned weights."""
        for name, parameter in self.parameters.items():
            parameter.mul_(self.masks[name])

    @torch.no_grad()
    def before_step(self) -> None:
        """Zeroes the gradients of the pruned weights."""
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                parameter.grad.mul_(self.masks[name])

    def density(self) -> float:
        """Fraction of weights kept, over all layers."""
        kept = sum(int(mask.sum()) for mask in self.masks.values())
        return kept / max(1, sum(mask.numel() for mask in self.masks.values()))

    after_step = apply_


def masks_from_torch_prune(model: nn.Module) -> dict[str, torch.Tensor]:
    """The masks that ``torch.nn.utils.prune`` registered in a model, by parameter name."""
    suffix = "_mask"
    return {
        name.removesuffix(suffix): mask.to(torch.bool)
        for name, mask in model.named_buffers()
        if name.endswith(suffix) and hasattr(*_owner(model, name.removesuffix(suffix) + "_orig"))
    }


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path), attribute
