"""Weight sensitivity: the diagonal of the loss Hessian, exact, estimated, or taken from Adam.

Source: Choi et al. (arXiv 1612.01543), sections 3.3 to 3.5. For a network of linear layers and
ReLU, max-pooling and norms in evaluation mode the logits z are piecewise linear in each weight. The
second derivative of the loss with respect to a weight is then, almost everywhere, that of the
softmax cross-entropy alone, propagated back: with probabilities p, sum_c (d s_c.z / dw)^2 with the
columns s_c = sqrt(p_c) (e_c - p) of a square root of diag(p) - p p^T. For other networks, and for
weights that are used more than once, this is the Gauss-Newton approximation, which is never
negative.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from tersor.calibration.inputs import Batch, each_batch, evaluating, run
from tersor.calibration.sample_gradients import recorded


def hessian_diagonal(
    model: nn.Module, batches: Iterable[Batch], *, draws: int | None = None, seed: int = 0
) -> dict[str, torch.Tensor]:
    """The diagonal of the Hessian of the mean cross-entropy, for the weights of supported layers.

    No labels are needed: the Hessian of the cross-entropy depends on the logits alone.

    Args:
        model: returns logits ``[n, classes]``, or ``[n, positions, classes]``: the classes are the
            last dimension, and each position is a prediction of its own, padding too. They may be
            the attribute ``logits`` of what it returns. It is run in evaluation mode; its weights
            may be frozen.
        batches: inputs of n samples: each batch a tensor, a tuple of arguments or a dict of keyword
            arguments. About 1,000 samples in all do as well as the full set (section 3.4).
        draws: None = exact, with one backward pass per class and position; otherwise the number of
            backward passes with random signs: an unbiased estimate, for models with many classes
            or positions.
        seed: of the random signs.

    Returns:
        The diagonal by weight name: float32 (float64 for weights of that), the shape of the weight,
        never negative; zero for a layer that no logit depends on. Weights of layers that are not
        called as modules (the output projection of ``nn.MultiheadAttention``) are left out. A tied
        weight has the same diagonal under the name of each layer; what it does in layers that are
        not supported (embeddings) is not counted.

    Raises:
        ValueError: there are no samples; a batch is not what the model takes; the model returns
            something else, or NaN, or logits without gradients; or a layer gets the samples in
            another order than the model, which batches of one sample end.
    """
    if draws is not None and draws < 1:
        raise ValueError(f"draws={draws}: at least one is needed")
    generator = torch.Generator("cpu").manual_seed(seed)
    predictions = 0
    with evaluating(model, gradients=True), recorded(model) as gradients:
        for batch in each_batch(batches):
            gradients.clear()
            logits = _logits_of(run(model, batch))
            probabilities = logits.detach().softmax(-1)
            if not probabilities.isfinite().all():
                raise ValueError("the model returns NaN or infinite logits")
            gradients.add(logits, _directions(probabilities, draws, generator))
            predictions += probabilities.shape[:-1].numel()
            del logits  # and its graph, before the next one is made
        if predictions == 0:
            raise ValueError("the Hessian needs samples")
        count = predictions * (draws or 1)
        return {name: squares / count for name, squares in gradients.sums().items()}


def _logits_of(output: Any) -> torch.Tensor:
    """The logits that a model returned.

    Raises:
        ValueError: they are not ``[n, classes]`` or ``[n, positions, classes]``.
    """
    logits = getattr(output, "logits", output)
    if not isinstance(logits, torch.Tensor):
        found = f"a {type(logits).__name__}"
    elif not logits.is_floating_point() or logits.dim() not in (2, 3):
        found = f"{str(logits.dtype).removeprefix('torch.')} of the shape {list(logits.shape)}"
    else:
        return logits
    raise ValueError(
        f"the model returns {found}: its Hessian needs float logits [n, classes] or "
        "[n, positions, classes]; wrap the model in a module that returns them"
    )


def _directions(
    p: torch.Tensor, draws: int | None, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    """Vectors s, so that the sum of (s . dz)^2 is that over all predictions of dz^T H dz.

    H = diag(p) - p p^T is the Hessian of a prediction's cross-entropy with respect to its logits z.

    Args:
        p: the probabilities ``[n, classes]`` or ``[n, positions, classes]``.
        draws: None = one vector for each position and class; or the number of random ones, whose
            mean square it is.
        generator: of the random signs.

    Yields:
        The shape of ``p``.
    """
    root = p.sqrt()
    if draws is not None:
        for _ in range(draws):
            sign = torch.randint(0, 2, p.shape, generator=generator, device="cpu").to(p) * 2 - 1
            signed = root * sign
            yield signed - p * signed.sum(-1, keepdim=True)
        return
    for position in range(p[0].numel() // p.shape[-1]):
        for c in range(p.shape[-1]):
            direction = torch.zeros_like(p)
            part, p_here, root_here = (
                t.view(len(p), -1, p.shape[-1])[:, position] for t in (direction, p, root)
            )
            part.copy_(-p_here * root_here[:, c : c + 1])
            part[:, c] += root_here[:, c]
            yield direction


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
