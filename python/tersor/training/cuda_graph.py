"""A training step that a GPU replays: networks so small keep a GPU waiting for its next launch.

Captured once as a CUDA graph, a step is one launch. Results of a CPU and a GPU differ by the order
of their sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# Plain calls before a capture, which let the libraries allocate and choose their algorithms.
PLAIN_CALLS = 3


class Step:
    """A step of training: a plain call on the CPU, a captured CUDA graph on a GPU.

    Args:
        function: the step; takes tensors, whose shapes are the same in each call, and changes
            tensors in place. Nothing in it may depend on a value that is on the GPU.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.calls = 0
        self.inputs: list[torch.Tensor] = []
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: torch.Tensor) -> None:
        """Runs the step."""
        self.calls += 1
        if inputs[0].device.type != "cuda":
            self.function(*inputs)
        elif self.calls <= PLAIN_CALLS:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.function(*inputs)
            torch.cuda.current_stream().wait_stream(stream)
        else:
            if self.graph is None:
                self.inputs = [x.clone() for x in inputs]
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph):
                    self.function(*self.inputs)
            for static, x in zip(self.inputs, inputs, strict=True):
                static.copy_(x)
            self.graph.replay()


def find_device() -> torch.device:
    """The GPU where there is one, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def optimizer_rate(rate: float, device: torch.device) -> dict[str, Any]:
    """An optimizer's arguments for a learning rate that a replayed step reads anew."""
    if device.type != "cuda":
        return {"lr": rate}
    return {"lr": torch.tensor(rate, device=device), "fused": True}


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of all groups, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
