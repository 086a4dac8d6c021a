"""Which tensors of a model file are selected."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tersor.cli.errors import InputError
from tersor.cli.select import Selection, choose, select


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...] = (3, 4)
    dtype: str = "F32"


SELECTED = [
    "fc.weight", "weight", "member.weight", "abnormality.weight", "lm_head.weight",
    # Linear layers inside of what a norm or an embedding is called.
    "transformer_blocks.0.norm1.linear.weight", "norm1_context.linear.weight",
    "norm_out.linear.weight", "time_embed.0.weight", "time_emb_proj.weight",
    "patch_embed.proj.weight", "embedding_hidden_mapping_in.weight",
    "add_embedding.linear_1.weight", "embed_out.weight",
    "block_sparse_moe.gate.weight", "ln_proj.weight", "position.weight",
]  # fmt: skip
LEFT = [
    "fc.running", "in_proj_weight", "fc.weight_g",
    "embedding.weight", "tok_embeddings.weight", "model.embed_tokens.weight", "wte.weight",
    "transformer.wpe.weight", "tokens_embed.weight", "embed_positions.weight", "posemb.weight",
    "bert.embeddings.word_embeddings.weight", "patch_emb.weight", "shared.weight",
    "0.SelfAttention.relative_attention_bias.weight", "pos.weight", "tok.weight", "vocab.weight",
    "quantize.codebook.weight",
    "layer_norm.weight", "norm.weight", "norm2.weight", "ln_f.weight", "ln1.weight", "bn2.weight",
    "final_layernorm.weight", "input_layernorm.weight", "post_attention_norm.weight",
    "rmsnorm.weight",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "selected"), [(n, True) for n in SELECTED] + [(n, False) for n in LEFT]
)
def test_choice_by_name(name: str, selected: bool) -> None:
    choice = choose(Tensor(name))
    assert choice.selected is selected, choice


@pytest.mark.parametrize(
    ("name", "shape", "selected"),
    [
        ("conv.weight", (3, 4, 5, 5), True),
        ("patch_embedding.weight", (8, 3, 4, 4), True),  # a table has two dimensions
        ("norm.weight", (3, 8, 8), False),
        ("fc.weight", (0, 4), False),
        ("fc.weight", (3,), False),
        ("norm.weight", (3,), False),
        ("fc.bias", (3,), False),
    ],
)
def test_choice_by_shape(name: str, shape: tuple[int, ...], selected: bool) -> None:
    assert choose(Tensor(name, shape)).selected is selected


def test_what_has_a_bias_is_no_embedding() -> None:
    assert not choose(Tensor("time_embed.weight"), names={"time_embed.weight"}).selected
    assert choose(Tensor("time_embed.weight"), names={"time_embed.bias"}).selected
    assert not choose(Tensor("norm.weight", (3, 3)), names={"norm.bias"}).selected


@pytest.mark.parametrize("dtype", ["I64", "F8_E4M3", "C64", "BOOL"])
def test_other_types_are_left_whatever_is_asked_and_named(dtype: str) -> None:
    choice = choose(Tensor("fc.weight", dtype=dtype), Selection(only=["*"]))
    assert not choice.selected
    assert ("complex" if dtype == "C64" else dtype) in choice.reason


def test_choice_by_options() -> None:
    fc, wte = Tensor("fc.weight"), Tensor("wte.weight")
    assert not choose(fc, Selection(min_size=13)).selected
    assert choose(fc, Selection(min_size=12)).selected
    assert choose(wte, Selection(only=["wte*"])).selected
    assert not choose(fc, Selection(only=["wte*"])).selected
    assert not choose(fc, Selection(only=["fc*"], skip=["*.weight"])).selected


def test_tables_of_embeddings_are_selected_where_that_is_asked() -> None:
    tables = Selection(tables=True)
    choice = choose(Tensor("wte.weight"), tables)
    assert choice.selected
    assert choice.table
    assert choice.reason == "embedding"
    assert not choose(Tensor("norm.weight", (3, 4)), tables).selected
    assert not choose(Tensor("fc.weight"), tables).table
    tied = select([Tensor("head.weight")], tables, {"wte.weight": "head.weight"})["head.weight"]
    assert tied.selected
    assert tied.table


def test_a_tensor_with_several_names_goes_by_all_of_them() -> None:
    tensors = [Tensor("head.weight"), Tensor("fc.weight")]
    aliases = {"wte.weight": "head.weight"}
    choices = select(tensors, Selection(), aliases)
    assert not choices["head.weight"].selected
    assert choices["head.weight"].reason == "tied to wte.weight: embedding"
    assert choices["fc.weight"].selected
    assert select(tensors, Selection(only=["wte*"]), aliases)["head.weight"].selected
    assert not select(tensors, Selection(only=["*"], skip=["wte*"]), aliases)[
        "head.weight"
    ].selected


@pytest.mark.parametrize("option", ["only", "skip"])
@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("lm_haed*", "lm_head"),
        ("lm_haed.weight", "lm_head.weight"),
        ("encoder.layer.0.fc", "encoder.layers.0.fc"),
        ("ffff", "lm_head"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error_with_near_names(
    option: str, pattern: str, near: str
) -> None:
    tensors = [Tensor("lm_head.weight"), Tensor("encoder.layers.0.fc.weight")]
    selection = Selection(**{option: ["*", pattern]})
    with pytest.raises(InputError, match=f"--{option} '.*' matches no tensor") as error:
        select(tensors, selection, {})
    assert near in str(error.value).partition("; there are ")[2]
