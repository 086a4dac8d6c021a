"""Training as both examples do it: with a teacher, and on a GPU where there is one.

Networks this small keep a GPU waiting for its next launch, so a step is captured once, as a CUDA
graph, and replayed. Results of a CPU and a GPU differ by the order of their sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import tersor

# Plain calls before a capture, which let the libraries allocate and choose their algorithms.
PLAIN_CALLS = 3


def find_device() -> torch.device:
    """The GPU where there is one, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Step:
    """A step of training that a GPU replays.

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


def rate_of(rate: float, device: torch.device) -> dict[str, Any]:
    """An optimizer's arguments for a learning rate that a replayed step reads anew."""
    if device.type != "cuda":
        return {"lr": rate}
    return {"lr": torch.tensor(rate, device=device), "fused": True}


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of all groups."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def distillation_loss(
    scores: torch.Tensor,
    targets: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    teacher_weight: float,
) -> torch.Tensor:
    """Distance from the teacher's softened scores and from the labels (Hinton et al. 2015).

    Args:
        scores, targets: of the network and its teacher, ``[n, classes]``.
        labels: int64 ``[n]``.
        teacher_weight: 0 to 1, share of the teacher in the loss.
    """
    t = temperature
    soft = F.kl_div(F.log_softmax(scores / t, 1), F.softmax(targets / t, 1), reduction="batchmean")
    hard = F.cross_entropy(scores, labels)
    return teacher_weight * t * t * soft + (1 - teacher_weight) * hard


def bytes_so_far(model: nn.Module, values: int) -> int:
    """What a model would take now, with so many shared values in each layer, really encoded."""
    layer = tersor.LayerConfig(codebook_size=values, kind="shared_fp16")
    return tersor.estimate(model, tersor.Config(linear=layer, conv=layer)).compressed_bytes
