"""Tiny networks of the families that people bring, written out by hand, with random weights.

Wide enough that blobs are smaller than the weights; all take and give a batch first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

WIDTH = 64
VOCABULARY = 96
CLASSES = 64


class ResidualBlock(nn.Module):
    """Two convolutions with BatchNorm around a shortcut, as in ResNet-18."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.downsample(x)
        return self.relu(y)


class ResNet(nn.Module):
    """Two blocks, the mean over the image, and classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = ResidualBlock(32, WIDTH, 1)
        self.layer2 = ResidualBlock(WIDTH, WIDTH, 2)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


class MobileNet(nn.Module):
    """Inverted residuals: expansion, depthwise and projection, with ReLU6 in place."""

    def __init__(self) -> None:
        super().__init__()
        hidden = 2 * WIDTH
        self.expand = nn.Sequential(
            nn.Conv2d(WIDTH, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True)
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
        )
        self.project = nn.Sequential(nn.Conv2d(hidden, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(WIDTH, CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.project(self.depthwise(self.expand(x)))
        return self.classifier(x.mean((2, 3)))


class UNet(nn.Module):
    """Down, up through a transposed convolution, and a connection past both."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(8, 32, 3, padding="same", padding_mode="reflect")
        self.down = nn.Conv2d(32, WIDTH, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(4, WIDTH)
        self.up = nn.ConvTranspose2d(WIDTH, 32, 2, stride=2)
        self.leave = nn.Conv2d(WIDTH, 16, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = F.silu(self.enter(x))
        coarse = F.silu(self.norm(self.down(fine)))
        return self.leave(torch.cat([fine, self.up(coarse)], 1))


class PlainCNN(nn.Module):
    """Convolutions each followed by an activation that overwrites the output, as in AlexNet."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(8, WIDTH, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(WIDTH * 4, WIDTH),
            nn.ReLU(inplace=True),
            nn.Linear(WIDTH, CLASSES),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x))


class CRNN(nn.Module):
    """Columns of convolutional features read by a bidirectional LSTM, as for printed text."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, WIDTH, 3, padding=1)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        columns = F.relu(self.norm(self.conv(x))).mean(2).transpose(1, 2)
        return self.head(self.lstm(columns)[0])


class Seq2Seq(nn.Module):
    """A GRU that reads and one that writes, with one embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.encoder = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.bridge = nn.Linear(WIDTH, WIDTH)
        self.decoder = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        _, state = self.encoder(self.embedding(source))
        hidden, _ = self.decoder(self.embedding(target), torch.tanh(self.bridge(state)))
        return self.head(hidden)


class TiedLM(nn.Module):
    """A language model whose head has the weight of the embedding.

    Two of its layers share a weight as well, and one module stands in two places.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)
        self.third = self.second
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.tie_weights()

    def tie_weights(self) -> None:
        """As models of ``transformers`` have it."""
        self.head.weight = self.embedding.weight
        self.second.weight = self.first.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        for layer in (self.first, self.second, self.third):
            x = x + F.gelu(layer(x))
        return self.head(self.norm(x))


class Transformer(nn.Module):
    """torch's own encoder layers, and attention of its own to a memory."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.attention = nn.MultiheadAttention(
            WIDTH, 4, kdim=WIDTH // 2, vdim=WIDTH // 2, batch_first=True
        )
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        x = self.encoder(x)
        return self.head(x + self.attention(x, memory, memory, need_weights=False)[0])
