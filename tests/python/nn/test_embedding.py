"""Compressed embeddings against torch's on the decoded weight, over their options."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tersor
from tersor import Config, LayerConfig
from tersor.nn import Compressed, CompressedEmbedding, CompressedEmbeddingBag

ROWS, WIDTH = 60, 48


def _settings(values: int = 63, **others: object) -> LayerConfig:
    return LayerConfig(codebook_size=values, **others)  # type: ignore[arg-type]


def _decoded(layer: Compressed, dense: nn.Module) -> nn.Module:
    """The dense layer with the weight that the compressed one stands for."""
    made = copy.deepcopy(dense)
    with torch.no_grad():
        made.weight.copy_(layer.dense_weight())
    return made


@given(
    values=st.sampled_from([1, 3, 7, 15, 63, 127, 255]),
    density=st.sampled_from([None, 0.3]),
    padding=st.sampled_from([None, 0, -1]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    index=st.sampled_from([torch.int32, torch.int64]),
    shape=st.sampled_from([(), (0,), (5,), (2, 3), (2, 0, 3)]),
    way=st.sampled_from(["auto", "dense", "compressed"]),
)
def test_embedding_matches_torch(
    values: int,
    density: float | None,
    padding: int | None,
    dtype: torch.dtype,
    index: torch.dtype,
    shape: tuple[int, ...],
    way: str,
) -> None:
    torch.manual_seed(0)
    dense = nn.Embedding(ROWS, WIDTH, padding_idx=padding).to(dtype).requires_grad_(False)
    settings = _settings(values, density=density, execution=way)
    layer = CompressedEmbedding.from_dense(dense, settings)
    indices = torch.randint(0, ROWS, shape, dtype=index)
    found, expected = layer(indices), _decoded(layer, dense)(indices)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
    assert torch.equal(layer(indices.expand(2, *shape)), expected.expand(2, *expected.shape))


@given(
    mode=st.sampled_from(["sum", "mean", "max"]),
    padding=st.sampled_from([None, 3]),
    last=st.booleans(),
    flat=st.booleans(),
    weighted=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_embedding_bag_matches_torch(
    mode: str, padding: int | None, last: bool, flat: bool, weighted: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    last = last and flat
    dense = nn.EmbeddingBag(
        ROWS, WIDTH, mode=mode, padding_idx=padding, include_last_offset=last
    ).to(dtype)
    dense.requires_grad_(False)
    layer = CompressedEmbeddingBag.from_dense(dense, _settings())
    reference = _decoded(layer, dense)
    indices = torch.randint(0, 6, (12,) if flat else (4, 3))
    ends = [0, 3, 3, 10, 12] if last else [0, 3, 3, 10]
    arguments = {"offsets": torch.tensor(ends)} if flat else {}
    if weighted and mode == "sum":
        arguments["per_sample_weights"] = torch.randn(indices.shape).to(dtype)
    found, expected = layer(indices, **arguments), reference(indices, **arguments)
    assert found.dtype == expected.dtype
    assert torch.allclose(found, expected, atol=1e-6 if dtype == torch.float32 else 2e-2)


def test_empty_bags_are_zeros() -> None:
    layer = CompressedEmbeddingBag.from_dense(nn.EmbeddingBag(ROWS, WIDTH), _settings())
    empty = torch.zeros(0, dtype=torch.long)
    assert torch.equal(layer(empty, torch.tensor([0, 0])), torch.zeros(2, WIDTH))


@pytest.mark.parametrize("options", [{}, {"padding_idx": 2}, {"scale_grad_by_freq": True}])
def test_gradients_of_the_codebook_are_those_of_the_rows(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    dense = nn.Embedding(ROWS, WIDTH, **options)  # type: ignore[arg-type]
    layer = CompressedEmbedding.from_dense(dense, _settings(15))
    reference = _decoded(layer, dense)
    values = layer.train_values()
    indices = torch.tensor([[2, 5, 5], [7, 2, 59]])
    scale = torch.randn(2, 3, WIDTH)
    (layer(indices) * scale).sum().backward()
    (reference(indices) * scale).sum().backward()
    codes = torch.from_numpy(tersor.codec.csr.decode(layer.layer().csr)).long()
    expected = torch.zeros(16).index_add_(0, codes.flatten(), reference.weight.grad.flatten())
    assert torch.allclose(values.grad, expected[1:], atol=1e-5)


def test_a_tied_head_and_its_embedding_train_one_codebook() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(ROWS, WIDTH), nn.Linear(WIDTH, ROWS, bias=False))
    model[1].weight = model[0].weight
    tersor.compress_(model)
    values = model[0].train_values()
    assert model[1].values is values
    model(torch.tensor([1, 2, 3])).square().sum().backward()
    alone = values.grad.clone()
    dense = tersor.decompress_(copy.deepcopy(model))
    dense(torch.tensor([1, 2, 3])).square().sum().backward()
    codes = torch.from_numpy(tersor.codec.csr.decode(model[0].layer().csr)).long()
    count = len(values) + 1
    expected = torch.zeros(count).index_add_(0, codes.flatten(), dense[0].weight.grad.flatten())
    assert torch.allclose(alone, expected[1:], atol=1e-3, rtol=1e-3)


def test_ties_to_a_head_are_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(ROWS, WIDTH), nn.Linear(WIDTH, ROWS))
    model[1].weight = model[0].weight
    indices = torch.tensor([[0, 59, 7]])
    tersor.compress_(model)
    assert model[0].weight_blob is model[1].weight_blob
    expected = model(indices)
    tersor.save(model, tmp_path / "tied.safetensors")
    fresh = nn.Sequential(nn.Embedding(ROWS, WIDTH), nn.Linear(WIDTH, ROWS))
    fresh[1].weight = fresh[0].weight
    loaded = tersor.load_model(tmp_path / "tied.safetensors", fresh)
    assert loaded[0].weight_blob is loaded[1].weight_blob
    assert torch.equal(loaded(indices), expected)
    back = pickle.loads(pickle.dumps(model))
    assert back[0].weight_blob is back[1].weight_blob
    back[1].weight = back[0].weight  # what tie_weights() does
    assert torch.equal(back(indices), expected)
    dense = tersor.decompress_(back)
    assert dense[0].weight is dense[1].weight
    assert [type(m) for m in dense] == [nn.Embedding, nn.Linear]
    assert "bias" not in dense[0]._parameters


@pytest.mark.parametrize("named", [None, "0", "1"])
def test_the_settings_of_a_tied_weight(named: str | None) -> None:
    model = nn.Sequential(nn.Embedding(ROWS, WIDTH), nn.Linear(WIDTH, ROWS))
    model[1].weight = model[0].weight
    overrides = {} if named is None else {named: _settings(7)}
    tersor.compress_(model, Config(overrides=overrides))
    clusters = {layer.info.clusters for layer in model}
    assert clusters == {7} if named else len(clusters) == 1 and min(clusters) > 100


def test_rows_of_weights_without_a_codebook() -> None:
    dense = nn.Embedding(ROWS, WIDTH).requires_grad_(False)
    layer = CompressedEmbedding.from_dense(dense, LayerConfig(kind="plain_fp32", density=0.5))
    indices = torch.tensor([3, 1, 59])
    assert torch.equal(layer(indices), layer.dense_weight()[indices])


def test_max_norm_is_refused_with_the_cure() -> None:
    model = nn.Sequential(nn.Embedding(ROWS, WIDTH, max_norm=1.0))
    tersor.compress_(model)
    assert type(model[0]) is nn.Embedding
    (line,) = tersor.report(model).layers
    assert line.reason is not None
    assert "set max_norm to None" in line.reason


def test_indices_that_cannot_be() -> None:
    layer = CompressedEmbedding.from_dense(nn.Embedding(ROWS, WIDTH), _settings())
    with pytest.raises(IndexError, match="index 60 at position 1 is out of range for 60 rows"):
        layer(torch.tensor([0, 60]))
    with pytest.raises(ValueError, match=r"must be int32 or int64, not torch\.float32"):
        layer(torch.tensor([0.0]))


def test_graphs_and_operators() -> None:
    torch.manual_seed(0)
    layer = CompressedEmbedding.from_dense(nn.Embedding(ROWS, WIDTH), _settings())
    indices = torch.randint(0, ROWS, (3, 4))
    expected = layer(indices)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(indices), expected)
    exported = torch.export.export(layer, (indices,)).module()
    assert torch.equal(exported(indices), expected)
    values = torch.randn(len(layer.layer().values), requires_grad=True)
    blob = layer.weight_blob
    torch.library.opcheck(
        torch.ops.tersor.embedding.default, (indices, blob, values, WIDTH, torch.float32)
    )
    gradient = torch.randn(3, 4, WIDTH, requires_grad=True)
    torch.library.opcheck(
        torch.ops.tersor.embedding_to_values.default, (gradient, indices, blob, len(values))
    )


def test_an_empty_layer_says_so() -> None:
    layer = CompressedEmbedding.empty_like(nn.Embedding(ROWS, WIDTH, device="meta"))
    with pytest.raises(RuntimeError, match="has no weight yet"):
        layer(torch.tensor([0]))
