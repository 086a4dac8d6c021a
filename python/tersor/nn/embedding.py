"""Embeddings from compressed rows, each decoded when it is looked up."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from tersor.config import LayerConfig
from tersor.nn.base import Compressed, refuse_what_operators_get_wrong
from tersor.nn.execution import dense_weight_of
from tersor.nn.from_dense import compress_layer
from tersor.ops.embedding import look_up


class _Rows(Compressed):
    """Rows ``[num_embeddings, embedding_dim]`` that are looked up by index.

    ``execution="auto"`` decodes rows: that takes about as long as to copy them.
    """

    has_bias: ClassVar[bool] = False

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None
    scale_grad_by_freq: bool

    def _look_up(self, indices: torch.Tensor) -> torch.Tensor:
        """The rows of these indices, ``[*indices, embedding_dim]``, in the layer's dtype."""
        if self._runs_eagerly(indices, self.values):
            if self.execution == "dense" and self.values is None:
                return F.embedding(indices, dense_weight_of(self))
            return look_up(indices, self.weight_blob, self.values, self.dtype)
        refuse_what_operators_get_wrong(indices, weight=self.weight_blob, codebook=self.values)
        rows: torch.Tensor = torch.ops.tersor.embedding(
            indices, self.weight_blob, self.values, self.embedding_dim, self.dtype
        )
        if self.values is None:
            return rows
        return _as_gradients_count(rows, indices, self.padding_idx, self.scale_grad_by_freq)


class CompressedEmbedding(_Rows):
    """``nn.Embedding`` on a compressed weight ``[num_embeddings, embedding_dim]``."""

    attributes: ClassVar[tuple[str, ...]] = (
        "num_embeddings",
        "embedding_dim",
        "padding_idx",
        "max_norm",
        "norm_type",
        "scale_grad_by_freq",
        "sparse",
    )

    @classmethod
    def from_dense(
        cls, module: nn.Embedding, settings: LayerConfig, name: str = "embedding"
    ) -> CompressedEmbedding:
        """Compresses a dense layer; the dense one is left as it was.

        Raises:
            ValueError: the weight holds NaN or infinity; the message names the layer.
        """
        return compress_layer(cls, module, settings, name, None, "none")

    @classmethod
    def empty_like(cls, module: nn.Embedding) -> CompressedEmbedding:
        """A layer of the same geometry without a weight; none is read or allocated."""
        return cls._empty(module, (module.num_embeddings, module.embedding_dim))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Indices (int32 or int64) of any shape to ``[*indices, embedding_dim]``."""
        return self._look_up(input)


class CompressedEmbeddingBag(_Rows):
    """``nn.EmbeddingBag`` on a compressed weight ``[num_embeddings, embedding_dim]``."""

    attributes: ClassVar[tuple[str, ...]] = (
        *CompressedEmbedding.attributes,
        "mode",
        "include_last_offset",
    )

    mode: str
    include_last_offset: bool

    @classmethod
    def from_dense(
        cls, module: nn.EmbeddingBag, settings: LayerConfig, name: str = "embedding_bag"
    ) -> CompressedEmbeddingBag:
        """Compresses a dense layer; the dense one is left as it was.

        Raises:
            ValueError: the weight holds NaN or infinity; the message names the layer.
        """
        return compress_layer(cls, module, settings, name, None, "none")

    @classmethod
    def empty_like(cls, module: nn.EmbeddingBag) -> CompressedEmbeddingBag:
        """A layer of the same geometry without a weight; none is read or allocated."""
        return cls._empty(module, (module.num_embeddings, module.embedding_dim))

    def forward(
        self,
        input: torch.Tensor,
        offsets: torch.Tensor | None = None,
        per_sample_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Bags of indices to ``[bags, embedding_dim]``; arguments as of ``nn.EmbeddingBag``."""
        indices = input.reshape(-1)
        rows = self._look_up(indices)
        # The rows that were looked up, in their order, are the table of torch's own bags.
        places = torch.arange(indices.numel(), device=indices.device)
        padding = None
        if self.padding_idx is not None and indices.numel():
            # All that stand for padding become one row behind the others.
            rows = torch.cat([rows, rows.new_zeros(1, self.embedding_dim)])
            padding = indices.numel()
            places = torch.where(indices == self.padding_idx, padding, places)
        return F.embedding_bag(
            places.view(input.shape),
            rows,
            None if offsets is None else offsets.long(),
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=padding,
        )


def _as_gradients_count(
    rows: torch.Tensor, indices: torch.Tensor, padding: int | None, by_frequency: bool
) -> torch.Tensor:
    """The same rows, through which gradients flow as those of a dense embedding do.

    None of padding, and where that is asked for, divided by how often the index occurs.
    """
    if padding is None and not by_frequency:
        return rows
    share = torch.ones_like(indices, dtype=rows.dtype)
    if by_frequency:
        _, inverse, counts = indices.unique(return_inverse=True, return_counts=True)
        share = 1 / counts[inverse].to(rows.dtype)
    if padding is not None:
        share = share.masked_fill(indices == padding, 0)
    share = share.unsqueeze(-1)
    return rows.detach() + share * (rows - rows.detach())
