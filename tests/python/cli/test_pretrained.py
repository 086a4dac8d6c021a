"""A folder of transformers, compressed by the command, is read by from_pretrained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from command_line import Run

import tersor.integrations.transformers
from tersor.cli.pretrained import for_blobs, for_dense, is_pretrained


@pytest.fixture(name="bert")
def _bert(tmp_path: Path) -> Path:
    """The folder of a tiny BERT."""
    torch.manual_seed(1)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    config = transformers.BertConfig(**shape, num_hidden_layers=2, vocab_size=300)
    transformers.BertModel(config).eval().save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.mark.parametrize("shards", [False, True])
def test_from_pretrained_reads_what_the_command_wrote(
    shards: bool, bert: Path, works: Run, tmp_path: Path
) -> None:
    dense = transformers.AutoModel.from_pretrained(bert)
    if shards:
        bert = tmp_path / "shards"
        dense.save_pretrained(bert, max_shard_size="100KB")
    small, again = tmp_path / "small", tmp_path / "again"
    works("compress", bert, "-o", small, "--preset", "balanced")
    loaded, info = transformers.AutoModel.from_pretrained(small, output_loading_info=True)
    assert not info["missing_keys"]
    report = tersor.report(loaded)
    assert report.ratio > 4
    assert {"Embedding", "Linear"} == {layer.kind for layer in report.layers if layer.compressed}
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        expected, found = (model(ids).last_hidden_state for model in (dense, loaded))
    assert torch.nn.functional.cosine_similarity(expected, found, dim=-1).min() > 0.99
    works("decompress", small, "-o", again)
    assert json.loads((again / "config.json").read_text()) == json.loads(
        (bert / "config.json").read_text()
    )
    back = transformers.AutoModel.from_pretrained(again)
    with torch.inference_mode():
        assert torch.allclose(back(ids).last_hidden_state, found, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "content", "one"),
    [
        ("config.json", '{"model_type": "bert", "a": 1}', True),
        ("config.json", '{"linear": {}}', False),
        ("config.json", "[1]", False),
        ("config.json", "no JSON", False),
        ("tokenizer.json", '{"model_type": "bert"}', False),
    ],
)
def test_only_a_configuration_of_transformers_is_changed(
    name: str, content: str, one: bool, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert is_pretrained(path) is one
    marked = for_blobs(path)
    assert (marked != content.encode()) is one
    assert for_dense(path) == content.encode()
    path.write_bytes(marked)
    if one:
        assert json.loads(marked)["quantization_config"] == {"quant_method": "tersor"}
        assert json.loads(for_dense(path)) == json.loads(content)
