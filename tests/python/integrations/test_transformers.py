"""transformers' own ``from_pretrained`` and ``save_pretrained`` on tiny random networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import tersor
import tersor.integrations.transformers as tersor_hf
from tersor import Config, LayerConfig
from tersor.nn import Compressed
from tersor.nn.matrices import matrices_of
from tersor.training import Compressor, Schedule

_SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_IMAGES: dict[str, Any] = {**_SMALL, "image_size": 32, "patch_size": 8}
_SPECIAL: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _llama(tied: bool = False) -> Any:
    config = transformers.LlamaConfig(
        **_SMALL, **_SPECIAL, vocab_size=300, tie_word_embeddings=tied
    )
    return transformers.LlamaForCausalLM(config)


def _gpt2() -> Any:
    config = transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=300, **_SPECIAL)
    return transformers.GPT2LMHeadModel(config)


def _bert() -> Any:
    return transformers.BertForMaskedLM(transformers.BertConfig(**_SMALL, vocab_size=300))


def _vit() -> Any:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**_IMAGES))


def _siglip() -> Any:
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**_IMAGES))


def _t5() -> Any:
    config = transformers.T5Config(
        d_model=64,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        d_kv=16,
        vocab_size=300,
        decoder_start_token_id=0,
    )
    return transformers.T5ForConditionalGeneration(config)


def _whisper() -> Any:
    config = transformers.WhisperConfig(
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        vocab_size=300,
        num_mel_bins=8,
        max_source_positions=20,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **_SPECIAL,
    )
    return transformers.WhisperForConditionalGeneration(config)


FAMILIES: dict[str, Callable[[], Any]] = {
    "bert": _bert,
    "gpt2": _gpt2,
    "llama": _llama,
    "llama with tied embeddings": lambda: _llama(tied=True),
    "siglip": _siglip,
    "t5": _t5,
    "vit": _vit,
    "whisper": _whisper,
}
GENERATE = ("gpt2", "llama", "llama with tied embeddings", "t5", "whisper")


def _inputs(name: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    if name in ("siglip", "vit"):
        return {"pixel_values": torch.randn(2, 3, 32, 32)}
    if name == "whisper":
        return {"input_features": torch.randn(1, 8, 40)}
    return {"input_ids": torch.randint(3, 300, (2, 9))}


def _outputs(model: Any, name: str) -> torch.Tensor:
    inputs = _inputs(name)
    if name in ("t5", "whisper"):
        inputs["decoder_input_ids"] = torch.randint(3, 300, (1, 5)).expand(2, -1)
        if name == "whisper":
            inputs["decoder_input_ids"] = inputs["decoder_input_ids"][:1]
    with torch.inference_mode():
        out = model(**inputs)
    result: torch.Tensor = out.logits if "logits" in out else out.pooler_output
    return result


def _weights(model: torch.nn.Module) -> set[str]:
    """The names of all compressed weights."""
    return {
        f"{name}.{leaf}"
        for name, module in model.named_modules(remove_duplicate=False)
        for leaf in matrices_of(module)
    }


@pytest.fixture(name="dense", scope="module")
def _dense(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            torch.manual_seed(1)
            made[name] = tmp_path_factory.mktemp("dense")
            FAMILIES[name]().eval().save_pretrained(made[name])
        return made[name]

    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_models_are_compressed_saved_in_shards_and_loaded(
    name: str, dense: Callable[[str], Path], tmp_path: Path
) -> None:
    kind = type(FAMILIES[name]())
    config = tersor_hf.TersorConfig()
    small = kind.from_pretrained(dense(name), quantization_config=config)
    assert _weights(small) == _weights(tersor.compress_(kind.from_pretrained(dense(name))))
    small.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 or name == "vit"
    back, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert _weights(back) == _weights(small)
    assert torch.equal(_outputs(back, name), _outputs(small, name))
    blobs = {n: m.weight_blob for n, m in small.named_modules() if isinstance(m, Compressed)}
    for layer, module in back.named_modules():
        if isinstance(module, Compressed):
            assert torch.equal(module.weight_blob, blobs[layer]), layer


@pytest.mark.parametrize("name", FAMILIES)
def test_ties_are_kept(name: str, dense: Callable[[str], Path], tmp_path: Path) -> None:
    kind = type(FAMILIES[name]())
    small = tersor.compress_(kind.from_pretrained(dense(name)))
    small.save_pretrained(tmp_path)
    back = kind.from_pretrained(tmp_path)
    back.tie_weights()
    for target, source in back.all_tied_weights_keys.items():
        assert back.get_parameter_or_buffer(target) is back.get_parameter_or_buffer(source)
    again = back.dequantize()
    expected = kind.from_pretrained(dense(name)).all_tied_weights_keys
    assert again.all_tied_weights_keys == expected
    for target, source in expected.items():
        assert again.get_parameter(target) is again.get_parameter(source)
    assert not hasattr(again, "hf_quantizer")
    assert not hasattr(again.config, "quantization_config")
    torch.testing.assert_close(_outputs(again, name), _outputs(small, name), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", GENERATE)
def test_the_same_tokens_are_generated(
    name: str, dense: Callable[[str], Path], tmp_path: Path
) -> None:
    kind = type(FAMILIES[name]())
    tersor.compress_(kind.from_pretrained(dense(name))).save_pretrained(tmp_path)
    small = kind.from_pretrained(tmp_path)
    plain = kind.from_pretrained(tmp_path).dequantize()
    options = {"max_new_tokens": 12, "do_sample": False}
    tokens = small.generate(**_inputs(name), **options)
    assert tokens.shape[1] > 2
    assert torch.equal(tokens, plain.generate(**_inputs(name), **options))


def test_bfloat16_stays(dense: Callable[[str], Path], tmp_path: Path) -> None:
    config = tersor_hf.TersorConfig()
    kind = transformers.LlamaForCausalLM
    small = kind.from_pretrained(dense("llama"), quantization_config=config, dtype=torch.bfloat16)
    small.save_pretrained(tmp_path)
    back = kind.from_pretrained(tmp_path)
    assert back.dtype == torch.bfloat16
    assert back.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert torch.equal(_outputs(back, "llama"), _outputs(small, "llama"))


def test_a_body_is_loaded_from_a_model_with_a_head(
    dense: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = tersor.compress_(transformers.BertForMaskedLM.from_pretrained(dense("bert")))
    whole.save_pretrained(tmp_path)
    body = transformers.BertModel.from_pretrained(tmp_path, add_pooling_layer=False)
    assert _weights(body) == {
        name.removeprefix("bert.") for name in _weights(whole) if name.startswith("bert.")
    }
    inputs = _inputs("bert")
    with torch.inference_mode():
        states = whole(**inputs, output_hidden_states=True).hidden_states[-1]
        assert torch.equal(body(**inputs).last_hidden_state, states)
    body.save_pretrained(tmp_path / "body")
    _, info = transformers.BertForMaskedLM.from_pretrained(
        tmp_path / "body", output_loading_info=True
    )
    assert all(name.startswith("cls.") for name in info["missing_keys"])


def test_settings_stand_in_the_configuration(dense: Callable[[str], Path], tmp_path: Path) -> None:
    config = tersor_hf.TersorConfig(
        linear=LayerConfig(codebook_size=31), modules_to_not_convert=["lm_head", "*.mlp.*"]
    )
    small = transformers.LlamaForCausalLM.from_pretrained(
        dense("llama"), quantization_config=config
    )
    assert not any("mlp" in name or "lm_head" in name for name in _weights(small))
    assert len(_weights(small)) == 9
    small.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert stored == {
        "quant_method": "tersor",
        "modules_to_not_convert": ["lm_head", "*.mlp.*"],
        "linear": {"codebook_size": 31},
    }
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert back.hf_quantizer.quantization_config.to_dict() == stored
    assert _weights(back) == _weights(small)


def test_targets_and_calibration(dense: Callable[[str], Path], tmp_path: Path) -> None:
    batches = [torch.randint(3, 300, (4, 12)) for _ in range(4)]
    config = tersor_hf.TersorConfig(Config(target_ratio=6), data=batches)
    small = transformers.LlamaForCausalLM.from_pretrained(
        dense("llama"), quantization_config=config
    )
    small.save_pretrained(tmp_path)
    dense_bytes = sum(f.stat().st_size for f in dense("llama").glob("*.safetensors"))
    assert (tmp_path / "model.safetensors").stat().st_size < dense_bytes / 5
    assert config.data is None


def test_precision_and_dtype_of_a_layer_are_stored(
    dense: Callable[[str], Path], tmp_path: Path
) -> None:
    small = tersor.compress_(transformers.LlamaForCausalLM.from_pretrained(dense("llama")))
    small.model.layers[1].mlp.up_proj.precision = "low"
    small.save_pretrained(tmp_path)
    back = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    found = [layer.mlp.up_proj.precision for layer in back.model.layers]
    assert found == ["high", "low"]


def test_a_part_of_a_larger_model_saves_itself(
    dense: Callable[[str], Path], tmp_path: Path
) -> None:
    inner = transformers.BertModel.from_pretrained(dense("bert"))
    tersor.compress_(torch.nn.ModuleDict({"encoder": inner}))
    inner.save_pretrained(tmp_path)
    _, info = transformers.BertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert not info["missing_keys"]


def test_damage_is_an_error(dense: Callable[[str], Path], tmp_path: Path) -> None:
    tersor.compress_(transformers.LlamaForCausalLM.from_pretrained(dense("llama"))).save_pretrained(
        tmp_path
    )
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    blob = next(value for name, value in state.items() if name.endswith("_blob"))
    blob[blob.numel() // 2] ^= 1
    save_file(state, path, {"format": "pt"})
    with pytest.raises(tersor.FormatError):
        transformers.LlamaForCausalLM.from_pretrained(tmp_path)


def test_what_cannot_be_done_is_refused(dense: Callable[[str], Path], tmp_path: Path) -> None:
    kind = transformers.LlamaForCausalLM
    quantizer = tersor_hf.TersorQuantizer(tersor_hf.TersorConfig())
    with pytest.raises(ValueError, match="run on the CPU, and device_map asks for cuda"):
        quantizer.validate_environment(device_map={"": "cuda"})
    with pytest.raises(ValueError, match="no 'codebok_size'"):
        tersor_hf.TersorConfig(linear={"codebok_size": 3})
    with pytest.raises(ValueError, match="not both"):
        tersor_hf.TersorConfig(Config(), density=0.5)
    with pytest.raises(ValueError, match="quant_method 'gptq'"):
        tersor_hf.TersorConfig(quant_method="gptq")
    tersor.compress_(kind.from_pretrained(dense("llama"))).save_pretrained(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="loaded from its files"):
        kind.from_pretrained(None, config=config, state_dict={})


class _Examples(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Sequences that count upwards."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = (torch.arange(12) + 7 * index) % 290 + 3
        return {"input_ids": ids, "labels": ids}


def _trained(folder: Path, resume: bool | str = False, **arguments: Any) -> tuple[Any, Any]:
    """A model, and the compressor that followed its trainer."""
    torch.manual_seed(1)
    model = _llama()
    schedule = Schedule(density=0.3, prune_end=8, share_at=12, prune_every=2)
    compressor = Compressor(model, schedule)
    options = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        max_steps=20,
        save_steps=10,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **arguments,
    )
    callback = tersor_hf.CompressorCallback(compressor)
    trainer = transformers.Trainer(model, options, train_dataset=_Examples(), callbacks=[callback])
    trainer.train(resume_from_checkpoint=resume)
    return model, compressor


def test_a_trainer_prunes_and_shares_and_resumes(tmp_path: Path) -> None:
    model, compressor = _trained(tmp_path)
    assert compressor.step == 20
    assert compressor.density == pytest.approx(0.3, abs=0.001)
    for weight in compressor.weights.values():
        assert int(weight.detach().unique().count_nonzero()) <= 15
    again, other = _trained(tmp_path, resume=str(tmp_path / "checkpoint-10"))
    assert other.step == 20
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    compressor.finish().save_pretrained(tmp_path / "small")
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert torch.equal(_outputs(back, "llama"), _outputs(model, "llama"))
