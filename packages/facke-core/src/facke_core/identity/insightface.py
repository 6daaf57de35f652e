"""The residual recognisers of insightface (``w600k_r50`` and its kin), for converted graphs.

IResNet: "Improved Residual Networks for Image and Video Recognition" (Duta et al.,
arXiv:2004.04989) with the head of ArcFace (arXiv:1801.07698). Written for facke from the graphs'
operators. Each BatchNorm behind a convolution is part of that convolution, as in the published
graphs. No weights are shipped: insightface's are for non-commercial research only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from facke_core.errors import WeightsError

__all__: list[str] = []

_CHANNELS = (64, 128, 256, 512)


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, 1, 1)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1)
        self.downsample = (
            nn.Conv2d(channels_in, channels, 1, stride)
            if stride != 1 or channels_in != channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.prelu(self.conv1(self.bn1(x))))
        return y + (x if self.downsample is None else self.downsample(x))


class InsightFaceResNet(nn.Module):
    """A recogniser of insightface: RGB crops to raw embeddings of 512 numbers.

    Args:
        layers: blocks per stage; each stage halves the size in its first block.
    """

    def __init__(self, layers: tuple[int, ...] = (3, 4, 14, 3)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1)
        self.prelu = nn.PReLU(64)
        channels_in = 64
        for i, (channels, count) in enumerate(zip(_CHANNELS, layers, strict=True)):
            blocks = []
            for j in range(count):
                blocks.append(_Block(channels_in, channels, 1 if j else 2))
                channels_in = channels
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * 7 * 7, 512)
        self.features = nn.BatchNorm1d(512)

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (B, 512), not normalised, of ``x`` (B, 3, 112, 112) in [-1, 1]."""
        x = F.prelu(self.conv1(x), self.prelu.weight)
        for i in range(4):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return self.features(self.fc(self.bn2(x).flatten(1)))


def is_insightface(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether the names are those of an :class:`InsightFaceResNet`."""
    return "features.running_mean" in tensors and "layer1.0.prelu.weight" in tensors


def insightface_layout(tensors: Mapping[str, Tensor], source: str) -> InsightFaceResNet:
    """The network that ``tensors`` belong to, with fresh weights; its depth is read from the keys.

    Raises:
        WeightsError: the tensors are of another network.
    """
    counts = [0, 0, 0, 0]
    for key in tensors:
        if match := re.fullmatch(r"layer([1-4])\.(\d{1,3})\.conv1\.weight", key):
            layer = int(match[1]) - 1
            counts[layer] = max(counts[layer], int(match[2]) + 1)
    if 0 in counts:
        raise WeightsError(
            f"{source} holds no weights of insightface's residual networks: it lacks a stage. "
            "Give what `facke weights convert` wrote."
        )
    return InsightFaceResNet(tuple(counts))
