"""The walk from nothing to an encoder: its script is whole, and sentences become vectors."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
import transformers

from examples.minilm import encode

ROOT = Path(__file__).resolve().parents[2]


def test_the_script_is_whole() -> None:
    subprocess.run(["bash", "-n", ROOT / "examples" / "minilm" / "walk.sh"], check=True)


def test_vectors_have_length_one_whatever_is_beside_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [word for line in encode.SENTENCES for word in line.lower().strip("?.").split()][:20]
    (tmp_path / "vocab.txt").write_text("\n".join(dict.fromkeys([*special, *words])))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    torch.manual_seed(1)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    config = transformers.BertConfig(**shape, num_hidden_layers=2, vocab_size=30)
    transformers.BertModel(config).save_pretrained(tmp_path)
    together = encode.encode(str(tmp_path))
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    monkeypatch.setattr(encode, "SENTENCES", encode.SENTENCES[2:])
    torch.testing.assert_close(encode.encode(str(tmp_path))[0], together[2])
