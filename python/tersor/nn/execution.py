"""Whether a layer runs from its compressed weight, or from the weight decoded once.

Both give the same within the error class of the layer; the state is the blob either way. With
``execution="auto"`` the first call with a batch of a new size (up to the next power of two) times
both ways, and the layer then goes the faster one. What was measured holds for all layers of the
same geometry, so that equal layers of one process compute alike. Decided without measuring:

- few vectors on a large, sparse matrix: the product is bound by memory, of which the compressed
  form reads far less;
- under ``torch.use_deterministic_algorithms``, with a codebook that is trained, and where graphs
  are traced, compiled or differentiated: compressed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from tersor.ops.decoded import dense_of, forget_dense, held_bytes

if TYPE_CHECKING:
    from tersor.nn.base import Compressed

# A sparse matrix of more weights than this, for at most so many vectors, is not measured.
_CLEAR_WEIGHTS = 1 << 16
_CLEAR_DENSITY = 0.3
_CLEAR_BATCH = 4

# Each way is timed at least this often, and for this many seconds; the shortest counts.
_ROUNDS = 3
_MOST_ROUNDS = 20
_SECONDS = 2e-3
# Of the rest of a network so many bytes pass through the caches, at most and at least.
_MOST_READ = 1 << 26
_LEAST_READ = 1 << 16
# Dense must be so much faster: ties are not worth the memory of a decoded weight.
_MARGIN = 0.95


@dataclass(frozen=True)
class Choice:
    """How a layer runs for batches of one size.

    Attributes:
        runs: ``compressed`` or ``dense``.
        why: in words: what was measured or known.
    """

    runs: str
    why: str

    def __str__(self) -> str:
        return f"{self.runs} ({self.why})"


_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda y: y,
    "relu": torch.relu_,
    "relu6": F.relu6,
    "gelu": F.gelu,
    "silu": F.silu,
}

_MEASURED: dict[Hashable, Choice] = {}


def run_fastest(
    layer: Compressed,
    x: torch.Tensor,
    size: int,
    compressed: Callable[[], torch.Tensor],
    dense: Callable[[torch.Tensor], torch.Tensor],
    situation: Hashable = None,
) -> torch.Tensor:
    """Runs a layer the way that its ``execution`` says, or that is faster.

    To be called in eager inference alone, where neither way records anything.

    Args:
        layer: with its blob.
        x: its input.
        size: what time grows with: the number of elements of the input.
        compressed: gives the output by the compressed weight.
        dense: gives it by a dense weight, which has the shape and the dtype of the layer's.
        situation: on what else time depends, such as the size of images.
    """
    choice = choice_for(layer, x, size, compressed, dense, situation)
    return dense(dense_weight_of(layer)) if choice.runs == "dense" else compressed()


def choice_for(
    layer: Compressed,
    x: torch.Tensor,
    size: int,
    compressed: Callable[[], torch.Tensor],
    dense: Callable[[torch.Tensor], torch.Tensor],
    situation: Hashable = None,
) -> Choice:
    """How a layer runs; arguments as of :func:`run_fastest`."""
    key = _key_of(layer, x, size, situation)
    choice = layer.choices.get(key)
    if choice is None:
        choice = layer.choices[key] = _choose(layer, x, size, key, compressed, dense)
    return choice


def known_choice(
    layer: Compressed, x: torch.Tensor, size: int, situation: Hashable = None
) -> Choice | None:
    """How a layer runs, where that was decided before; None = it was not."""
    return layer.choices.get(_key_of(layer, x, size, situation))


def finished(
    y: torch.Tensor, activation: str, residual: torch.Tensor | None = None
) -> torch.Tensor:
    """What a compressed layer does to its product: ``activation(y + residual)``; y is used up."""
    if residual is not None:
        if residual.shape != y.shape:
            raise ValueError(
                f"the residual has shape {list(residual.shape)}, expected {tuple(y.shape)}"
            )
        y += residual
    return _ACTIVATIONS[activation](y)


def dense_weight_of(layer: Compressed) -> torch.Tensor:
    """The weight, decoded once, of the layer's shape and dtype; kept as long as its blob."""
    return dense_of(layer.weight_blob, layer.dtype)


def _key_of(layer: Compressed, x: torch.Tensor, size: int, situation: Hashable) -> Hashable:
    return (
        size.bit_length(),
        x.dtype,
        torch.get_num_threads(),
        layer.execution,
        layer.precision,
        situation,
    )


def _choose(
    layer: Compressed,
    x: torch.Tensor,
    size: int,
    key: Hashable,
    compressed: Callable[[], torch.Tensor],
    dense: Callable[[torch.Tensor], torch.Tensor],
) -> Choice:
    if layer.values is not None:
        return Choice("compressed", "its codebook is trained")
    if x.dtype != layer.dtype or (layer.bias is not None and layer.bias.dtype != x.dtype):
        return Choice("compressed", f"the input is {x.dtype}, the weight {layer.dtype}")
    if layer.execution != "auto":
        return Choice(layer.execution, "as set")
    if torch.are_deterministic_algorithms_enabled():
        return Choice("compressed", "deterministic algorithms are asked for")
    info = layer.info
    density = info.nonzeros / max(1, info.weights)
    few = size <= _CLEAR_BATCH * math.prod(layer.shape[1:])
    if few and density <= _CLEAR_DENSITY and info.weights > _CLEAR_WEIGHTS:
        return Choice("compressed", f"{density:.0%} kept, few vectors: reads less memory")
    geometry = (type(layer), layer.shape, round(density, 1), info.clusters, layer.activation)
    whole: Hashable = (geometry, layer.packed.isa, key)
    if whole not in _MEASURED:
        _MEASURED[whole] = _measured(layer, size, compressed, dense)
    return _MEASURED[whole]


def _measured(
    layer: Compressed,
    size: int,
    compressed: Callable[[], torch.Tensor],
    dense: Callable[[torch.Tensor], torch.Tensor],
) -> Choice:
    weight = dense_weight_of(layer)
    # Between two calls of a layer the network's others pass through the caches.
    others = layer.bytes_of_all_dense() - weight.nbytes
    packed = max(0, held_bytes(layer.weight_blob) - weight.nbytes)
    times = _shortest_times(
        compressed,
        lambda: dense(weight),
        between=(int(others * packed / max(1, weight.nbytes)), others),
    )
    faster = "dense" if times[1] < _MARGIN * times[0] else "compressed"
    if faster == "compressed":
        forget_dense(layer.weight_blob)
    microseconds = [f"{1e6 * each:.1f} µs" for each in times]
    return Choice(
        faster,
        f"{size:,} inputs: compressed {microseconds[0]}, dense {microseconds[1]}",
    )


def _shortest_times(*ways: Callable[[], Any], between: tuple[int, ...] = ()) -> list[float]:
    """The shortest time of each way in seconds, called in turns after one call that warms it up.

    Args:
        ways: to do the same.
        between: bytes that are read before each call of each, of what it would find in no cache.
    """
    best = [math.inf] * len(ways)
    for way in ways:
        way()
    reads = [_reader(nbytes) for nbytes in between or (0,) * len(ways)]
    spent, rounds = 0.0, 0
    while rounds < _ROUNDS or (spent < _SECONDS and rounds < _MOST_ROUNDS):
        for i, way in enumerate(ways):
            before = time.perf_counter()
            reads[i]()
            start = time.perf_counter()
            way()
            end = time.perf_counter()
            best[i] = min(best[i], end - start)
            spent += end - before
        rounds += 1
    return best


def _reader(nbytes: int) -> Callable[[], Any]:
    """What reads so much memory, within bounds: less stays in the first cache anyway."""
    if nbytes < _LEAST_READ:
        return lambda: None
    buffer = torch.ones(min(nbytes, _MOST_READ) // 4)
    return lambda: buffer.sum()


def forget_choices() -> None:
    """Lets layers that are made from now on measure again."""
    _MEASURED.clear()
