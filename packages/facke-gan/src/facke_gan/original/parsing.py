"""Face parsing: which pixels are skin, nose, hair; the mask of the original SimSwap's paste-back.

BiSeNet: "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation" (Yu et al.,
arXiv:1808.00897), in the form of zllrunning/face-parsing.PyTorch (MIT) with the 19 classes of
CelebAMask-HQ. Written from a description of layers; parameter names are the original's. No weights
are shipped; ``facke weights convert`` reads the published ones.
"""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core.nn.normalize import Normalize

__all__ = ["FaceParser", "load_parser"]

# fmt: off
CLASSES = (
    "background", "skin", "left brow", "right brow", "left eye", "right eye", "glasses",
    "left ear", "right ear", "earring", "nose", "mouth", "upper lip", "lower lip", "neck",
    "necklace", "cloth", "hair", "hat",
)
# fmt: on
SIZE = 512
"""Side of the pictures that the published network was trained on."""


class _ConvBNReLU(nn.Module):
    def __init__(self, channels_in: int, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Basic(nn.Module):
    """The block of ResNet-18."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
            if stride != 1 or channels_in != channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class _ResNet18(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels_in = 64
        for i, channels in enumerate((64, 128, 256, 512)):
            first = _Basic(channels_in, channels, 2 if i else 1)
            self.add_module(f"layer{i + 1}", nn.Sequential(first, _Basic(channels, channels, 1)))
            channels_in = channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The features at 1/8, 1/16 and 1/32 of the size."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.get_submodule("layer1")(x)
        x8 = self.get_submodule("layer2")(x)
        x16 = self.get_submodule("layer3")(x8)
        return x8, x16, self.get_submodule("layer4")(x16)


class _Refinement(nn.Module):
    """Attention refinement: features, weighted per channel by their own average."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv = _ConvBNReLU(channels_in, channels)
        self.conv_atten = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * torch.sigmoid(self.bn_atten(self.conv_atten(_average(x))))


class _ContextPath(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resnet = _ResNet18()
        self.arm16 = _Refinement(256, 128)
        self.arm32 = _Refinement(512, 128)
        self.conv_head32 = _ConvBNReLU(128, 128)
        self.conv_head16 = _ConvBNReLU(128, 128)
        self.conv_avg = _ConvBNReLU(512, 128, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x8, x16, x32 = self.resnet(x)
        coarse = self.arm32(x32) + self.conv_avg(_average(x32))
        up16 = self.conv_head32(F.interpolate(coarse, x16.shape[2:]))
        up8 = self.conv_head16(F.interpolate(self.arm16(x16) + up16, x8.shape[2:]))
        return x8, up8, up16


class _Fusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convblk = _ConvBNReLU(256, 256, 1)
        self.conv1 = nn.Conv2d(256, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 256, 1, bias=False)

    def forward(self, x8: Tensor, up8: Tensor) -> Tensor:
        x = self.convblk(torch.cat([x8, up8], dim=1))
        return x * torch.sigmoid(self.conv2(F.relu(self.conv1(_average(x))))) + x


class _Head(nn.Module):
    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv = _ConvBNReLU(channels_in, channels)
        self.conv_out = nn.Conv2d(channels, len(CLASSES), 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))


class FaceParser(nn.Module):
    """BiSeNet with the 19 :data:`CLASSES` of a face."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.cp = _ContextPath()
        self.ffm = _Fusion()
        self.conv_out = _Head(256, 256)
        self.conv_out16 = _Head(128, 64)
        self.conv_out32 = _Head(128, 64)

    def logits(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The logits (B, 19, H, W) of all three heads for ImageNet-normalised ``x`` (B, 3, H, W).

        The first is the result, the others were supervised in training.
        """
        x8, up8, up16 = self.cp(x)
        heads = (
            self.conv_out(self.ffm(x8, up8)),
            self.conv_out16(up8),
            self.conv_out32(up16),
        )
        a, b, c = (
            F.interpolate(y, x.shape[2:], mode="bilinear", align_corners=True) for y in heads
        )
        return a, b, c

    def forward(self, image: Tensor) -> Tensor:
        """The logits (B, 19, H, W) of images (B, 3, H, W) in [0, 1]."""
        return self.logits(self.normalize(image))[0]

    @torch.no_grad()
    def classes(self, image: Tensor) -> Tensor:
        """The class (B, 512, 512) int64 of each pixel of crops (B, 3, S, S) in [0, 1], resized as
        the original SimSwap does (nearest)."""
        return self(F.interpolate(image, (SIZE, SIZE))).argmax(1)


def load_parser(weights: str | os.PathLike[str]) -> FaceParser:
    """Make the parser with converted weights, frozen.

    Args:
        weights: a folder or a ``.safetensors`` file.

    Raises:
        UsageError, WeightsError: they are not there, or of another network.
        VerificationError: not a safetensors file.
    """
    from facke_core.weights.layout import fill
    from facke_core.weights.pinned import encoder_tensors

    parser = FaceParser()
    tensors = encoder_tensors(os.fspath(weights), None)
    fill(parser, tensors, source=str(weights), built_by="BiSeNet with 19 classes")
    return parser.eval().requires_grad_(False)


def _average(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)
