"""Weight sensitivity: the diagonal of the loss Hessian, exact, estimated, or taken from Adam.

Source: Choi et al. (arXiv 1612.01543), sections 3.3 to 3.5. For a network of linear layers and
ReLU, max-pooling and norms in evaluation mode the logits z are piecewise linear in each weight. The
second derivative of the loss with respect to a weight is then, almost everywhere, that of the
softmax cross-entropy alone, propagated back: with probabilities p, sum_c (d s_c.z / dw)^2 with the
columns s_c = sqrt(p_c) (e_c - p) of a square root of diag(p) - p p^T. For other networks this is
the Gauss-Newton approximation, which is never negative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def _squared_gradient(
    layer: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor
) -> torch.Tensor:
    """Per-sample squared gradients, summed over the samples; has the shape of the weight."""
    if isinstance(layer, nn.Linear):
        if inputs.dim() == 2:
            return (gradient**2).T @ (inputs**2)
        each = torch.einsum("nto,nti->noi", gradient.flatten(1, -2), inputs.flatten(1, -2))
        return (each**2).sum(0)
    assert isinstance(layer, nn.Conv2d)
    n, groups = len(inputs), layer.groups
    if isinstance(layer.padding, str):
        raise ValueError("the padding of a convolution must be given as numbers")
    patches = F.unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    patches = patches.view(n, groups, -1, patches.shape[-1])
    gradient = gradient.reshape(n, groups, -1, patches.shape[-1])
    each = torch.einsum("ngot,ngit->ngoi", gradient, patches)
    return (each**2).sum(0).view(layer.weight.shape)


def hessian_diagonal(
    model: nn.Module, batches: Iterable[torch.Tensor], *, draws: int | None = None, seed: int = 0
) -> dict[str, torch.Tensor]:
    """The diagonal of the Hessian of the mean cross-entropy, for Linear and Conv2d weights.

    No labels are needed: the Hessian of the cross-entropy depends on the logits alone.

    Args:
        model: returns logits ``[n, classes]``; is run in evaluation mode.
        batches: inputs; about 1,000 samples do as well as the full set (section 3.4).
        draws: None = exact, with one backward pass per class; otherwise the number of backward
            passes with random signs: an unbiased estimate, for models with many classes.
        seed: of the random signs.

    Returns:
        The diagonal by weight name: float32, the shape of the weight, never negative; zero for a
        layer that no logit depends on.

    Raises:
        ValueError: there are no samples, or a convolution's padding is not given as numbers.
    """
    layers = {
        f"{name}.weight".lstrip("."): module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }
    total = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    calls: list[tuple[str, nn.Module, torch.Tensor, torch.Tensor]] = []
    handles = []

    def watch(name: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            calls.append((name, module, inputs[0].detach(), output))

        return hook

    for name, layer in layers.items():
        handles.append(layer.register_forward_hook(watch(name)))
    generator = torch.Generator().manual_seed(seed)
    training = model.training
    model.eval()
    samples = 0
    try:
        for x in batches:
            calls.clear()
            with torch.enable_grad():
                # The input asks for gradients so that a model with frozen weights has them too.
                scores = model(x.detach().clone().requires_grad_(x.is_floating_point()))
            p = scores.detach().softmax(1)
            classes = p.shape[1]
            outputs = [output for _, _, _, output in calls]
            for c in range(classes if draws is None else draws):
                if draws is None:
                    column = -p * p[:, c : c + 1].sqrt()
                    column[:, c] += p[:, c].sqrt()
                else:  # sum_c sign_c s_c
                    sign = torch.randint(0, 2, p.shape, generator=generator).to(p) * 2 - 1
                    root = p.sqrt() * sign
                    column = root - p * root.sum(1, keepdim=True)
                gradients = torch.autograd.grad(
                    scores, outputs, column, retain_graph=True, allow_unused=True
                )
                for (name, module, inputs, _), gradient in zip(calls, gradients, strict=True):
                    if gradient is not None:
                        total[name] += _squared_gradient(module, inputs, gradient).detach()
            samples += len(x)
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    if samples == 0:
        raise ValueError("the Hessian needs samples")
    return {name: value / (samples * (draws or 1)) for name, value in total.items()}


def hutchinson_diagonal(
    loss: torch.Tensor, parameters: Mapping[str, nn.Parameter], *, draws: int = 32, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Hutchinson's estimate of the Hessian diagonal of a twice differentiable loss: E[v * Hv].

    Args:
        loss: a scalar whose autograd graph has not been freed.
        parameters: by name.
        draws: number of random vectors v, whose entries are 1 or -1.
        seed: of the random vectors.

    Returns:
        The estimate by name, each of its parameter's shape. It is unbiased, but single entries may
        be negative.
    """
    generator = torch.Generator().manual_seed(seed)
    values = list(parameters.values())
    first = torch.autograd.grad(loss, values, create_graph=True)
    total = [torch.zeros_like(p) for p in values]
    for _ in range(draws):
        v = [(torch.randint(0, 2, p.shape, generator=generator) * 2 - 1).to(p) for p in values]
        second = torch.autograd.grad(first, values, v, retain_graph=True)
        for sum_, sign, product in zip(total, v, second, strict=True):
            sum_ += sign * product
    return {name: sum_ / draws for name, sum_ in zip(parameters, total, strict=True)}


def adam_importance(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """The square root of Adam's second moment, a by-product of training (section 3.5).

    Returns:
        The importance by name, each of its parameter's shape and dtype.

    Raises:
        ValueError: the optimizer has no second moment for a parameter.
    """
    made = {}
    for name, parameter in parameters.items():
        state = optimizer.state.get(parameter, {})
        if "exp_avg_sq" not in state:
            raise ValueError(f"{name}: the optimizer has no second moment (is it Adam, and run?)")
        made[name] = state["exp_avg_sq"].detach().sqrt()
    return made
