"""Multi-head attention whose joint projection runs from a compressed weight.

Source: Vaswani et al. (arXiv 1706.03762), section 3.2.
"""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from tersor import _core
from tersor.codec.blob import decode_rows
from tersor.config import LayerConfig
from tersor.kernels.spmm import pack_blob
from tersor.nn.base import Compressed, autocast, refuse_what_operators_get_wrong
from tersor.nn.execution import run_fastest
from tersor.nn.from_dense import compress_layer
from tersor.ops.forward import run_linear
from tersor.ops.packed import packed_of, stored

# By the tensor of a blob: that tensor, and the packed rows for queries and for keys and values,
# where these are projections of different inputs.
_PARTS: dict[int, tuple[weakref.ref[torch.Tensor], dict[tuple[int, int], _core.PackedMatrix]]] = {}


class CompressedMultiheadAttention(Compressed):
    """``nn.MultiheadAttention`` on a compressed ``in_proj_weight`` ``[3 * embed_dim, embed_dim]``.

    ``out_proj`` is a layer of its own. Reading ``in_proj_weight`` gives a stand-in for the dense
    weight. The fused paths of torch's transformer layers, which read it, are not taken.
    """

    weight_name: ClassVar[str] = "in_proj_weight"
    has_bias: ClassVar[bool] = False
    attributes: ClassVar[tuple[str, ...]] = (
        "embed_dim",
        "kdim",
        "vdim",
        "num_heads",
        "dropout",
        "batch_first",
        "head_dim",
        "add_zero_attn",
    )

    embed_dim: int
    num_heads: int
    head_dim: int
    dropout: float
    batch_first: bool
    add_zero_attn: bool
    in_proj_bias: nn.Parameter | None
    bias_k: nn.Parameter | None
    bias_v: nn.Parameter | None
    out_proj: nn.Module

    @classmethod
    def from_dense(
        cls, module: nn.MultiheadAttention, settings: LayerConfig, name: str = "attention"
    ) -> CompressedMultiheadAttention:
        """Compresses the joint projection of a dense layer, whose other parameters are shared.

        Raises:
            ValueError: the weight holds NaN or infinity; the message names the layer.
        """
        return compress_layer(cls, module, settings, name, None, "none")

    @classmethod
    def empty_like(cls, module: nn.MultiheadAttention) -> CompressedMultiheadAttention:
        """A layer of the same geometry without a weight; none is read or allocated."""
        made = cls._empty(module, (3 * module.embed_dim, module.embed_dim))
        # By this attribute torch's fused layers, which read the dense weights, step aside.
        made.__dict__["_qkv_same_embed_dim"] = False
        return made

    def to_dense(self) -> nn.Module:
        """The dense layer with the same weight, dtype, hooks and mode."""
        dense = super().to_dense()
        dense.__dict__["_qkv_same_embed_dim"] = True
        return dense

    @property
    def weight_blob(self) -> torch.Tensor:
        """The blob, uint8 ``[n]``, which the state has as ``in_proj_weight_blob``."""
        blob = self._buffers[self.blob_name]
        assert blob is not None
        return blob

    @weight_blob.setter
    def weight_blob(self, blob: torch.Tensor) -> None:
        """Replaces the blob."""
        self._buffers[self.blob_name] = blob

    @property
    def in_proj_weight(self) -> torch.Tensor:
        """A stand-in for the dense weight."""
        return self.weight

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As torch's layer: the output, and the attention weights where they are needed."""
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.dim() == 3
        q, k, v = self._project(query, key, value)
        if not batched:
            q, k, v = q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0)
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
        mask = self._mask(attn_mask, key_padding_mask, q)
        y, weights = self._attend(*self._with_extra(q, k, v, mask), need_weights)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if batched and not self.batch_first:
            y = y.transpose(0, 1)
        y = self.out_proj(y if batched else y.squeeze(0))
        return y, weights if batched or weights is None else weights.squeeze(0)

    def _project(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values; inputs that are one tensor are read once."""
        n = self.embed_dim
        if query is key and key is value:
            q, k, v = self._rows(query, 0, 3).split(n, -1)
        elif key is value:
            q = self._rows(query, 0, 1)
            k, v = self._rows(key, 1, 2).split(n, -1)
        else:
            q, k, v = (self._rows(x, i, 1) for i, x in enumerate((query, key, value)))
        return q, k, v

    def _rows(self, x: torch.Tensor, first: int, count: int) -> torch.Tensor:
        """The product with some of the three projections."""
        x = autocast(x)
        n = self.embed_dim
        part = slice(first * n, (first + count) * n)
        bias = None if self.in_proj_bias is None else self.in_proj_bias[part]
        if not self._runs_eagerly(x, self.in_proj_bias, self.values):
            refuse_what_operators_get_wrong(
                x, weight=self.weight_blob, codebook=self.values, bias=self.in_proj_bias
            )
            if count < 3:
                return F.linear(x, self._decoded()[part].to(x.dtype), bias)
            y: torch.Tensor = torch.ops.tersor.linear(
                x, self.weight_blob, self.values, bias, None, 3 * n, "none", self.precision
            )
            return y

        def compressed() -> torch.Tensor:
            packed = self.packed if count == 3 else self._packed_rows(part)
            return run_linear(packed, x, bias, (count * n, n), self.precision)

        if self.execution == "compressed" or not x.is_cpu or x.shape[-1] != n:
            return compressed()
        return run_fastest(
            self,
            x,
            x.numel(),
            compressed,
            lambda weight: F.linear(x, weight[part], bias),
            (first, count),
        )

    def _packed_rows(self, part: slice) -> _core.PackedMatrix:
        """Some rows of the weight, packed when they are first needed."""
        blob = self.weight_blob
        if self.values is not None:
            content = self.layer()
            codes = decode_rows(stored(blob), part.start, part.stop - part.start)
            return pack_blob(
                dataclasses.replace(codes, values=content.values),
                threads=torch.get_num_threads(),
            )
        key = id(blob)
        entry = _PARTS.get(key)
        whole = packed_of(blob)  # another one where the blob was changed
        if entry is None or entry[0]() is not blob or entry[1].get((0, 0)) is not whole:
            reference = weakref.ref(blob, lambda _: _PARTS.pop(key, None))
            entry = _PARTS[key] = (reference, {(0, 0): whole})
        place = (part.start, part.stop)
        if place not in entry[1]:
            rows = decode_rows(stored(blob), part.start, part.stop - part.start)
            entry[1][place] = pack_blob(rows, threads=torch.get_num_threads())
        return entry[1][place]

    def _mask(
        self,
        attn_mask: torch.Tensor | None,
        key_padding_mask: torch.Tensor | None,
        q: torch.Tensor,
    ) -> torch.Tensor | None:
        """What is added to the scores, ``[n or 1, heads or 1, targets, sources]``."""
        mask = None
        if attn_mask is not None:
            mask = _added(attn_mask, q)
            if mask.dim() == 3:
                mask = mask.unflatten(0, (len(q), self.num_heads))
            else:
                mask = mask[None, None]
        if key_padding_mask is not None:
            padding = _added(key_padding_mask, q)[:, None, None]
            mask = padding if mask is None else mask + padding
        return mask

    def _with_extra(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Heads ``[n, heads, time, head_dim]``, with the sources that the options add."""
        extra = 0
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(len(k), 1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(len(v), 1, -1)], 1)
            extra += 1
        heads = (self.num_heads, self.head_dim)
        q, k, v = (x.unflatten(-1, heads).transpose(1, 2) for x in (q, k, v))
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
            extra += 1
        if mask is not None and extra:
            mask = F.pad(mask, (0, extra))
        return q, k, v, mask

    def _attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor | None,
        need_weights: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Softmax over the sources, and what it weighs, ``[n, targets, embed_dim]``."""
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * self.head_dim**-0.5) @ k.mT
            weights = (scores if mask is None else scores + mask).softmax(-1)
            weights = F.dropout(weights, dropout) if dropout else weights
            y = weights @ v
        else:
            if mask is not None:
                mask = mask.expand(len(q), self.num_heads, q.shape[2], k.shape[2])
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        return y.transpose(1, 2).flatten(-2), weights


def _added(mask: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """A mask as what is added to scores: boolean ones are true where there is no attention."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask, float("-inf"))
    return mask.to(q.dtype)


def refusal_of(module: Any) -> str | None:
    """Why an attention's joint projection cannot run compressed."""
    if not module._qkv_same_embed_dim:
        return "its queries, keys and values have projections of their own (kdim, vdim)"
    return None
