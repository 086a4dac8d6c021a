"""Layer types, one row each on the page of supported layers: how each is built and what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from tests.compat.families import unsupported
from tests.compat.networks import WIDTH


@dataclass(frozen=True)
class Row:
    """A type of layer.

    Attributes:
        name: on the page.
        build: a module with the layer under its name ``layer``.
        shapes: of the inputs, in float32.
        reason: why it stays dense; None = it is compressed.
        note: for the page.
        place: the name of the layer in what is built.
        runs: whether its own ``forward`` is called, on the compressed weight.
    """

    name: str
    build: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    reason: str | None = None
    note: str = ""
    place: str = "layer"
    runs: bool = True

    @property
    def inputs(self) -> list[torch.Tensor]:
        """Small positive integers as floats, which are indices for those that take some."""
        random = torch.Generator().manual_seed(1)
        return [torch.randint(0, 9, shape, generator=random).float() for shape in self.shapes]


class Holder(nn.Module):
    """A model of one layer; a tuple that it gives is cut to its first part."""

    def __init__(self, layer: nn.Module, *, indices: bool = False, attends: bool = False) -> None:
        super().__init__()
        self.layer, self.indices, self.attends = layer, indices, attends

    def forward(self, x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        if self.indices:
            x = x.long()
        y: Any = self.layer(x, x, x) if self.attends else self.layer(x, *others)
        return y[0] if isinstance(y, tuple) else y


class Scaled(nn.Linear):
    """A subclass that computes something else."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


class Renamed(nn.Linear):
    """A subclass that computes the same."""


class TiedToEmbedding(nn.Module):
    """A Linear with the weight of an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WIDTH, WIDTH)
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.layer.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.embedding(x.long()))


def _conv1d_of_transformers() -> nn.Module:
    from transformers.pytorch_utils import Conv1D

    return Holder(Conv1D(WIDTH, WIDTH))


def _replaced_forward() -> nn.Module:
    layer = nn.Linear(WIDTH, WIDTH)
    layer.forward = lambda input: F.linear(input, layer.weight)  # type: ignore[method-assign]
    return Holder(layer)


def _pruned() -> nn.Module:
    layer = nn.Linear(WIDTH, WIDTH)
    prune.l1_unstructured(layer, "weight", 0.5)
    return Holder(layer)


def _computed(change: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Holder(change(nn.Linear(WIDTH, WIDTH)))


def _layer(kind: Callable[..., nn.Module], *arguments: Any, **options: Any) -> Any:
    return lambda: Holder(kind(*arguments, **options))


def _by_index(kind: Callable[..., nn.Module], *arguments: Any) -> Any:
    return lambda: Holder(kind(*arguments), indices=True)


def _recurrent(kind: type[nn.Module], shape: tuple[int, ...]) -> Row:
    """A layer or cell of several weights."""
    return Row(
        f"`nn.{kind.__name__}`",
        _layer(kind, WIDTH, WIDTH),
        (shape,),
        note="every option; gradients by torch's own, from decoded weights",
    )


def _dense(kind: type[nn.Module], *arguments: Any, shape: tuple[int, ...]) -> Row:
    """A type that is not supported."""
    reason = unsupported(kind.__name__)
    return Row(f"`nn.{kind.__name__}`", _layer(kind, *arguments), (shape,), reason)


_DECODED = 'the weight is decoded: once, or at each call with `execution="compressed"`'


def _decoded(kind: type[nn.Module], *arguments: Any, shape: tuple[int, ...]) -> Row:
    """A type that has no kernel of its own."""
    return Row(f"`nn.{kind.__name__}`", _layer(kind, *arguments), (shape,), note=_DECODED)


_ROW = (2, WIDTH)
_SEQUENCE = (2, 5, WIDTH)
_IMAGES = (2, WIDTH, 6, 6)
_ANY = "any stride, padding, padding mode, dilation"
_BAKED = "stored as the weight that it is at that moment"

ROWS = (
    Row("`nn.Linear`", _layer(nn.Linear, WIDTH, WIDTH), (_SEQUENCE,)),
    Row(
        "a subclass of `nn.Linear` or `nn.Conv2d`",
        _layer(Renamed, WIDTH, WIDTH),
        (_ROW,),
        note="that does not override `forward`",
    ),
    Row(
        "a subclass with a `forward` of its own",
        _layer(Scaled, WIDTH, WIDTH),
        (_ROW,),
        "Scaled overrides the forward of Linear",
    ),
    Row(
        "a layer whose `forward` was replaced",
        _replaced_forward,
        (_ROW,),
        "the forward of this Linear was replaced",
    ),
    Row(
        "a layer under `torch.nn.utils.prune`", _pruned, (_ROW,), note=f"{_BAKED}, without the mask"
    ),
    Row(
        "a layer under `parametrizations.weight_norm`",
        _computed(parametrizations.weight_norm),
        (_ROW,),
        note=_BAKED,
    ),
    Row(
        "a layer under `parametrizations.spectral_norm`",
        _computed(parametrizations.spectral_norm),
        (_ROW,),
        note=_BAKED,
    ),
    Row(
        "a layer whose blob is not smaller",
        _layer(nn.Linear, 4, 4),
        ((2, 4),),
        r"would not get smaller \(\d+ bytes of 64\)",
    ),
    Row(
        "a layer with the weight of an embedding",
        TiedToEmbedding,
        ((2, 5),),
        note="one blob for both, with the settings of the embedding",
    ),
    Row(
        "a complex layer",
        _layer(nn.Linear, WIDTH, WIDTH, dtype=torch.complex64),
        (),
        "weight is complex64, not float",
    ),
    Row(
        "`nn.Conv2d`",
        _layer(nn.Conv2d, WIDTH, WIDTH, 3, padding="same", padding_mode="circular", dilation=2),
        (_IMAGES,),
        note=_ANY,
    ),
    Row(
        "`nn.Conv2d`, grouped and depthwise",
        _layer(nn.Conv2d, 4 * WIDTH, 4 * WIDTH, 3, groups=4 * WIDTH),
        ((2, 4 * WIDTH, 5, 5),),
    ),
    Row("`nn.Conv1d`", _layer(nn.Conv1d, WIDTH, WIDTH, 3), ((2, WIDTH, 9),), note=_ANY),
    _decoded(nn.Conv3d, 8, 32, 3, shape=(2, 8, 4, 4, 4)),
    _decoded(nn.ConvTranspose1d, WIDTH, WIDTH, 3, shape=(2, WIDTH, 9)),
    _decoded(nn.ConvTranspose2d, WIDTH, WIDTH, 3, shape=_IMAGES),
    _decoded(nn.ConvTranspose3d, 8, 32, 3, shape=(2, 8, 4, 4, 4)),
    _recurrent(nn.RNN, _SEQUENCE),
    _recurrent(nn.LSTM, _SEQUENCE),
    _recurrent(nn.GRU, _SEQUENCE),
    _recurrent(nn.RNNCell, _ROW),
    _recurrent(nn.LSTMCell, _ROW),
    _recurrent(nn.GRUCell, _ROW),
    Row(
        "`nn.Embedding`",
        _by_index(nn.Embedding, WIDTH, WIDTH),
        ((2, 5),),
        note="rows are decoded when they are looked up; not with `max_norm`",
    ),
    Row(
        "`nn.EmbeddingBag`",
        _by_index(nn.EmbeddingBag, WIDTH, WIDTH),
        ((2, 5),),
        note="any mode, weights of samples; not with `max_norm`",
    ),
    Row(
        "`nn.MultiheadAttention`",
        lambda: Holder(nn.MultiheadAttention(WIDTH, 2, batch_first=True), attends=True),
        (_SEQUENCE,),
        note="masks, `add_bias_kv`, `add_zero_attn`; `out_proj` is a layer of its own",
    ),
    Row(
        "`nn.MultiheadAttention` with `kdim` or `vdim`",
        lambda: Holder(nn.MultiheadAttention(WIDTH, 2, kdim=WIDTH, vdim=8), attends=True),
        (),
        "its queries, keys and values have projections of their own (kdim, vdim)",
        "its `out_proj` is decoded at each call",
    ),
    Row(
        "`nn.Bilinear`",
        _layer(nn.Bilinear, WIDTH, WIDTH, 4),
        (_ROW, _ROW),
        note=_DECODED,
    ),
    Row(
        "`transformers` `Conv1D` (GPT-2)",
        _conv1d_of_transformers,
        (_ROW,),
    ),
    _dense(nn.BatchNorm1d, WIDTH, shape=_ROW),
    _dense(nn.BatchNorm2d, WIDTH, shape=_IMAGES),
    _dense(nn.LayerNorm, WIDTH, shape=_ROW),
    _dense(nn.RMSNorm, WIDTH, shape=_ROW),
    _dense(nn.GroupNorm, 4, WIDTH, shape=_IMAGES),
    _dense(nn.PReLU, WIDTH, shape=_ROW),
)
