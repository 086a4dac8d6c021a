"""What follows an optimizer's steps, also where a closure computes the gradients in them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch


def before_step(optimizer: torch.optim.Optimizer, action: Callable[[], None]) -> Any:
    """Runs an action in each step, when gradients are there and weights are not yet changed.

    With ``optimizer.step(closure)``, as Lightning calls it, that is after each run of the closure,
    and a plain hook before the step would see gradients of the step before.

    Args:
        optimizer: whose steps are meant.
        action: what to run.

    Returns:
        A handle whose ``remove()`` ends it.
    """

    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0]: the optimizer
        if closure is None:
            action()
            return None

        def closure_and_action() -> Any:
            loss = closure()
            action()
            return loss

        if len(args) > 1:
            return (args[0], closure_and_action, *args[2:]), kwargs
        return args, {**kwargs, "closure": closure_and_action}

    return optimizer.register_step_pre_hook(hook)


class AroundSteps(ABC):
    """What is done before and after each step of an optimizer."""

    @abstractmethod
    def before_step(self) -> None:
        """Called when gradients are there and weights are not yet changed."""

    @abstractmethod
    def after_step(self) -> None:
        """Called when weights are changed."""

    def attach(self, optimizer: torch.optim.Optimizer) -> list[Any]:
        """Follows an optimizer's steps; ``remove()`` of each handle detaches."""
        return [
            before_step(optimizer, lambda: self.before_step()),
            optimizer.register_step_post_hook(lambda *_: self.after_step()),
        ]
