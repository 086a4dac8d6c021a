"""The families of networks, and what is expected of each.

A family says which of its layers stay dense and why, which names are tied, and which operations do
not work, with the words that say so. Everything that is not named here is expected to work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tests.compat import networks
from tests.compat.networks import VOCABULARY, WIDTH

Inputs = dict[str, Any]


def unsupported(kind: str) -> str:
    """Why layers of a type without a handler stay dense."""
    return f"{kind} layers are not supported"


def shares_with(other: str, kind: str) -> str:
    """Why a layer stays dense that has the weight of one that must."""
    return f"shares its weight with {other} ({unsupported(kind)})"


@dataclass(frozen=True)
class DenseRefuses:
    """An operation that torch refuses for the dense model too, in the same words.

    Attributes:
        error: the type of what is raised.
        pattern: of its message.
        why: for the page of supported layers.
    """

    error: type[Exception]
    pattern: str
    why: str


@dataclass(frozen=True)
class Warns:
    """An operation that works once the user did what a warning says.

    Attributes:
        pattern: of the warning.
        why: for the page of supported layers.
    """

    pattern: str
    why: str


Outcome = DenseRefuses | Warns


@dataclass(frozen=True)
class Family:
    """A network, its inputs, and what is expected of it.

    Attributes:
        name: in tests and on the page.
        about: what it stands for, on the page.
        build: the dense network in evaluation mode, float32, the same each time.
        inputs: keyword arguments; floats are cast to the dtype of the network.
        dense: by name or by type of a layer, why it stays dense; all others are compressed.
        tied: names in the state that are one tensor.
        decoded: patterns of names of compressed layers whose weight is decoded at each call,
            because the model reads it past the layer's ``forward``, or that the model never runs.
        outcomes: by name of an operation, where it does not simply work.
        generates: whether the network has transformers' ``generate``.
    """

    name: str
    about: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    dense: Mapping[str, str] = field(default_factory=dict)
    tied: tuple[tuple[str, ...], ...] = ()
    decoded: tuple[str, ...] = ()
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    generates: bool = False

    def reason(self, name: str, module: nn.Module) -> str | None:
        """Why a layer stays dense; None = it is compressed."""
        return self.dense.get(name, self.dense.get(type(module).__name__))


def _from_transformers(kind: str, config: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers  # seconds, and some names load more: only when a family is built

        made: nn.Module = getattr(transformers, kind)(getattr(transformers, config)(**settings))
        return made

    return build


def _ids(*names: str, **others: Any) -> Callable[[], Inputs]:
    """Token ids ``[2, 8]`` by each name, and other arguments as they are."""

    def inputs() -> Inputs:
        random = torch.Generator().manual_seed(1)
        ids = {name: torch.randint(3, VOCABULARY, (2, 8), generator=random) for name in names}
        return {**ids, **others}

    return inputs


def _floats(**shapes: tuple[int, ...]) -> Callable[[], Inputs]:
    """Normally distributed arguments of these shapes."""

    def inputs() -> Inputs:
        random = torch.Generator().manual_seed(1)
        return {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}

    return inputs


def _whisper_inputs() -> Inputs:
    return {
        **_floats(input_features=(2, 32, 32))(),
        **_ids("decoder_input_ids", use_cache=False)(),
    }


# Of the variance that keeps activations of this width alike: each layer counts in the output.
_SPREAD = WIDTH**-0.5
_LAYER_NORM = {"LayerNorm": unsupported("LayerNorm")}
_OWN_PROJECTIONS = "its queries, keys and values have projections of their own (kdim, vdim)"
TINY = "would not get smaller"
_BATCH_NORM = {"BatchNorm2d": unsupported("BatchNorm2d")}

_NOT_IN_FILE = "not in the file, and still on the meta device"
FAMILIES = (
    Family(
        "bert",
        "`transformers` BERT, sequence classification",
        _from_transformers(
            "BertForSequenceClassification",
            "BertConfig",
            num_hidden_layers=1,
            hidden_size=WIDTH,
            num_attention_heads=2,
            intermediate_size=96,
            vocab_size=VOCABULARY,
            max_position_embeddings=16,
            num_labels=WIDTH,
            initializer_range=_SPREAD,
        ),
        _ids("input_ids"),
        {**_LAYER_NORM, "bert.embeddings.token_type_embeddings": TINY},
        outcomes={
            "load_meta": Warns(
                f"bert.embeddings.position_ids, bert.embeddings.token_type_ids: {_NOT_IN_FILE}",
                "buffers that no file holds are named; the user fills them",
            )
        },
    ),
    Family(
        "gpt2",
        "`transformers` GPT-2, language model",
        _from_transformers(
            "GPT2LMHeadModel",
            "GPT2Config",
            n_layer=1,
            n_embd=WIDTH,
            n_head=2,
            vocab_size=VOCABULARY,
            n_positions=32,
            initializer_range=_SPREAD,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        ),
        _ids("input_ids", use_cache=False),
        {
            **_LAYER_NORM,
        },
        tied=(("lm_head.weight", "transformer.wte.weight"),),
        generates=True,
    ),
    Family(
        "vit",
        "`transformers` ViT, image classification",
        _from_transformers(
            "ViTForImageClassification",
            "ViTConfig",
            num_hidden_layers=1,
            hidden_size=WIDTH,
            num_attention_heads=2,
            intermediate_size=96,
            image_size=16,
            patch_size=8,
            num_labels=WIDTH,
            initializer_range=_SPREAD,
        ),
        _floats(pixel_values=(2, 3, 16, 16)),
        {**_LAYER_NORM, "ViTEmbeddings": unsupported("ViTEmbeddings")},
    ),
    Family(
        "t5",
        "`transformers` T5, encoder and decoder",
        _from_transformers(
            "T5ForConditionalGeneration",
            "T5Config",
            num_layers=1,
            d_model=WIDTH,
            d_ff=96,
            num_heads=2,
            d_kv=32,
            vocab_size=VOCABULARY,
            decoder_start_token_id=0,
        ),
        _ids("input_ids", "decoder_input_ids", use_cache=False),
        {
            "T5LayerNorm": unsupported("T5LayerNorm"),
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias": TINY,
            "decoder.block.0.layer.0.SelfAttention.relative_attention_bias": TINY,
        },
        decoded=("shared",),
        tied=(
            (
                "decoder.embed_tokens.weight",
                "encoder.embed_tokens.weight",
                "lm_head.weight",
                "shared.weight",
            ),
        ),
    ),
    Family(
        "llama",
        "`transformers` Llama, language model",
        _from_transformers(
            "LlamaForCausalLM",
            "LlamaConfig",
            num_hidden_layers=1,
            hidden_size=WIDTH,
            intermediate_size=96,
            num_attention_heads=2,
            num_key_value_heads=2,
            vocab_size=VOCABULARY,
            max_position_embeddings=32,
            initializer_range=_SPREAD,
            pad_token_id=0,
        ),
        _ids("input_ids", use_cache=False),
        {"LlamaRMSNorm": unsupported("LlamaRMSNorm")},
        outcomes={
            "load_meta": Warns(
                f"rotary_emb.inv_freq, model.rotary_emb.original_inv_freq: {_NOT_IN_FILE}",
                "buffers that no file holds are named; the user fills them",
            )
        },
        generates=True,
    ),
    Family(
        "whisper",
        "`transformers` Whisper, speech to text",
        _from_transformers(
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            encoder_layers=1,
            decoder_layers=1,
            d_model=WIDTH,
            encoder_ffn_dim=96,
            decoder_ffn_dim=96,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            vocab_size=VOCABULARY,
            num_mel_bins=32,
            max_source_positions=16,
            max_target_positions=16,
            init_std=_SPREAD,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        ),
        _whisper_inputs,
        {
            **_LAYER_NORM,
            "WhisperPositionalEmbedding": (
                "WhisperPositionalEmbedding overrides the forward of Embedding"
            ),
        },
        tied=(("model.decoder.embed_tokens.weight", "proj_out.weight"),),
    ),
    Family(
        "resnet",
        "ResNet: BatchNorm, residuals",
        networks.ResNet,
        _floats(x=(2, 32, 6, 6)),
        _BATCH_NORM,
    ),
    Family(
        "mobilenet",
        "MobileNet: depthwise convolution, ReLU6 in place",
        networks.MobileNet,
        _floats(x=(2, WIDTH, 6, 6)),
        _BATCH_NORM,
    ),
    Family(
        "unet",
        "U-Net: transposed convolution, reflected padding",
        networks.UNet,
        _floats(x=(2, 8, 8, 8)),
        {"GroupNorm": unsupported("GroupNorm")},
    ),
    Family(
        "cnn",
        "plain CNN: ReLU in place",
        networks.PlainCNN,
        _floats(x=(2, 8, 4, 4)),
    ),
    Family(
        "crnn",
        "CRNN: convolution, bidirectional LSTM",
        networks.CRNN,
        _floats(x=(2, 8, 4, 8)),
        _BATCH_NORM,
    ),
    Family(
        "seq2seq",
        "sequence to sequence: two GRUs",
        networks.Seq2Seq,
        _ids("source", "target"),
    ),
    Family(
        "tied",
        "language model with tied weights",
        networks.TiedLM,
        _ids("ids"),
        _LAYER_NORM,
        tied=(
            ("embedding.weight", "head.weight"),
            ("first.weight", "second.weight", "third.weight"),
            ("second.bias", "third.bias"),
        ),
    ),
    Family(
        "transformer",
        "`nn.TransformerEncoder`, `nn.MultiheadAttention`",
        networks.Transformer,
        _floats(x=(2, 8, WIDTH), memory=(2, 6, WIDTH // 2)),
        {**_LAYER_NORM, "attention": _OWN_PROJECTIONS},
        decoded=("attention.out_proj",),
    ),
)
