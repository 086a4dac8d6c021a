"""Sentence vectors of a compressed MiniLM, beside those of the dense one.

python -m examples.minilm.encode DENSE COMPRESSED
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer

import tersor.integrations.transformers  # noqa: F401  # registers the method `tersor`

SENTENCES = [
    "How do I make a network smaller?",
    "Pruning and quantization reduce the size of a model.",
    "The cat sleeps on the sofa.",
]


@torch.inference_mode()
def encode(folder: str) -> torch.Tensor:
    """Vectors of the sentences, ``[sentences, 384]``: the mean over words, of length 1."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder)
    words = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    hidden = model(**words).last_hidden_state
    mask = words["attention_mask"][..., None].float()
    return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def main() -> None:
    """Prints cosines: between sentences in each model, and between the models."""
    dense, compressed = (encode(folder) for folder in sys.argv[1:3])
    for name, vectors in (("dense", dense), ("compressed", compressed)):
        alike = vectors[1:] @ vectors[0]
        print(f"{name}: first and second sentence {alike[0]:.3f}, first and third {alike[1]:.3f}")
    print(f"cosine between the two models: {F.cosine_similarity(dense, compressed).mean():.4f}")


if __name__ == "__main__":
    main()
