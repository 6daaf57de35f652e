"""The identity networks of the original systems, for converted checkpoints.

ArcFace: "ArcFace: Additive Angular Margin Loss for Deep Face Recognition" (arXiv 1801.07698), in
the SE-LResNet-IR form of foamliu/InsightFace-v2 (Apache-2.0), which conditions SimSwap and Facke.
CosFace: "CosFace: Large Margin Cosine Loss for Deep Face Recognition" (arXiv 1801.09414), in the
sphere networks of MuggleWang/CosFace_pytorch (MIT), Facke's retrieval judge.
Code: written for facke; the parameter names are those of the originals. No weights are shipped:
their training data (MS-Celeb-1M, CASIA-WebFace) were released for research only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn

from facke_core.errors import WeightsError
from facke_core.identity.crops import NORMALIZE, CropEncoder, choose
from facke_core.types import IdentityEncoderSpec
from facke_core.weights.layout import fill
from facke_core.weights.outline import check_outline
from facke_core.weights.pinned import encoder_tensors

__all__ = ["ArcFaceResNet", "CosFaceSphere"]

N = TypeVar("N", bound=nn.Module)

SPHERE_LAYERS = {20: (1, 2, 4, 1), 64: (3, 7, 16, 3)}
"""Number in the name of a sphere network -> its blocks per layer."""

_CHANNELS = (64, 128, 256, 512)


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // 16),
            nn.PReLU(),
            nn.Linear(channels // 16, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class _IRBlock(nn.Module):
    """A block of an "improved residual" network; its one PReLU is used twice."""

    def __init__(self, channels_in: int, channels: int, stride: int, use_se: bool) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
            if stride != 1 or channels_in != channels
            else None
        )
        self.se = _SqueezeExcite(channels) if use_se else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.prelu(self.bn1(self.conv1(self.bn0(x))))
        y = self.bn2(self.conv2(y))
        if self.se is not None:
            y = self.se(y)
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.prelu(y + shortcut)


class ArcFaceResNet(nn.Module):
    """SimSwap's ArcFace network: crops to raw embeddings of 512 numbers.

    The dropout of the original head is left out: encoders are only ever evaluated.

    Args:
        layers: blocks per stage.
        use_se: put squeeze-and-excitation into the blocks.
    """

    def __init__(self, layers: Sequence[int] = (3, 4, 23, 3), *, use_se: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU()
        self.maxpool = nn.MaxPool2d(2)
        channels_in = 64
        for i, (channels, count) in enumerate(zip(_CHANNELS, layers, strict=True)):
            blocks: list[nn.Module] = []
            for j in range(count):
                blocks.append(_IRBlock(channels_in, channels, 2 if i and not j else 1, use_se))
                channels_in = channels
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * 7 * 7, 512)
        self.bn3 = nn.BatchNorm1d(512)

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (B, 512), not normalised, of ImageNet-normalised ``x`` (B, 3, 112, 112)."""
        x = self.maxpool(self.prelu(self.bn1(self.conv1(x))))
        for i in range(4):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return self.bn3(self.fc(self.bn2(x).flatten(1)))


class _SphereBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.prelu1 = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.prelu2 = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.prelu2(self.conv2(self.prelu1(self.conv1(x))))


class CosFaceSphere(nn.Module):
    """A CosFace sphere network: crops to raw embeddings of 512 numbers.

    Args:
        layers: blocks per stage; see :data:`SPHERE_LAYERS`.
    """

    def __init__(self, layers: Sequence[int] = SPHERE_LAYERS[20]) -> None:
        super().__init__()
        channels_in = 3
        for i, (channels, count) in enumerate(zip(_CHANNELS, layers, strict=True)):
            self.add_module(
                f"layer{i + 1}",
                nn.Sequential(
                    nn.Conv2d(channels_in, channels, 3, 2, 1),
                    nn.PReLU(channels),
                    *(_SphereBlock(channels) for _ in range(count)),
                ),
            )
            channels_in = channels
        self.fc = nn.Linear(512 * 7 * 6, 512)

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (B, 512), not normalised, of ``x`` (B, 3, 112, 96) in [-1, 1]."""
        for i in range(4):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return self.fc(x.flatten(1))


def _depths(tensors: Mapping[str, Tensor], first: int, kind: str, source: str) -> tuple[int, ...]:
    """The blocks per layer, read from keys such as ``layer3.22.conv1.weight``."""
    depths = [0, 0, 0, 0]
    for key in tensors:
        if match := re.fullmatch(r"layer([1-4])\.(\d{1,9})\.conv1\.weight", key):
            layer = int(match[1]) - 1
            depths[layer] = max(depths[layer], int(match[2]) + 1 - first)
    if 0 in depths:
        raise WeightsError(
            f"{source} holds no weights of {kind}: tensors such as layer1.{first}.conv1.weight "
            "are missing. Give a converted checkpoint of that network."
        )
    return tuple(depths)


def arcface_layout(tensors: Mapping[str, Tensor], source: str = "the file") -> ArcFaceResNet:
    """The ArcFace network that ``tensors`` belong to, with fresh weights.

    Its depth, and whether it has squeeze-and-excitation, are read from the keys.

    Raises:
        WeightsError: the tensors are of another network.
    """
    layers = _depths(tensors, 0, "an ArcFace SE-IR network", source)
    return ArcFaceResNet(layers, use_se=any(".se." in key for key in tensors))


def cosface_layout(tensors: Mapping[str, Tensor], source: str = "the file") -> CosFaceSphere:
    """The CosFace sphere network that ``tensors`` belong to, with fresh weights; its depth is read
    from the keys.

    Raises:
        WeightsError: the tensors are of another network.
    """
    return CosFaceSphere(_depths(tensors, 2, "a CosFace sphere network", source))


def arcface_network(tensors: Mapping[str, Tensor], *, source: str = "the file") -> nn.Module:
    """The ArcFace network that ``tensors`` belong to, filled: SimSwap's, or one of insightface's.

    Raises:
        WeightsError: the tensors are of another network.
    """
    from facke_core.identity.insightface import insightface_layout, is_insightface

    layout = insightface_layout if is_insightface(tensors) else arcface_layout
    return _filled(layout, tensors, source)


def cosface_network(tensors: Mapping[str, Tensor], *, source: str = "the file") -> CosFaceSphere:
    """The CosFace sphere network that ``tensors`` belong to, filled.

    Raises:
        WeightsError: the tensors are of another network.
    """
    return _filled(cosface_layout, tensors, source)


def _filled(
    layout: Callable[[Mapping[str, Tensor], str], N], tensors: Mapping[str, Tensor], source: str
) -> N:
    """Compare the tensors with the network that their names ask for, then make it."""
    built_by = "the keys in it"
    check_outline(lambda: layout(tensors, source), tensors, source=source, built_by=built_by)
    network = layout(tensors, source)
    fill(network, tensors, source=source, built_by=built_by)
    return network


def build_arcface(
    *,
    weights: str,
    revision: str | None = None,
    crop_template: str = "",
    resize: str = "antialias",
    normalize: str = "imagenet",
    local_files_only: bool = False,
) -> CropEncoder:
    """Make ArcFace as SimSwap and Facke use it, 512-d; or a recogniser of insightface, which wants
    ``normalize="half"`` and the template of the crops.

    The originals show it the method's own crop as it is, so ``crop_template`` is empty by
    default; ``resize="nearest"`` is their inference, ``"bicubic"`` SimSwap's training.

    Args:
        weights: a ``.safetensors`` file, a folder, or ``hf:org/repo@COMMIT``.
        revision: the commit, where ``weights`` does not say it.
        crop_template: see :class:`~facke_core.identity.crops.CropEncoder`.
        resize: ``antialias``, ``nearest`` or ``bicubic``.
        normalize: ``imagenet`` or ``half``.
        local_files_only: never contact the Hub.

    Raises:
        WeightsError: the weights are not there, or of another network.
        ConfigError: an unknown ``resize`` or ``normalize``, or two that exclude each other.
        UnknownNameError: no template is called ``crop_template``.
    """
    spec = IdentityEncoderSpec(
        name="arcface", embedding_dim=512, input_size=(112, 112), template=crop_template
    )
    tensors = encoder_tensors(weights, revision, local_files_only=local_files_only)
    return CropEncoder(
        arcface_network(tensors, source=weights),
        spec,
        template="arcface",
        normalize=NORMALIZE[choose("normalize", normalize, tuple(NORMALIZE))],
        resize=resize,
    )


def build_cosface(
    *,
    weights: str,
    revision: str | None = None,
    crop_template: str = "simswap_frontal",
    resize: str = "antialias",
    normalize: str = "half",
    local_files_only: bool = False,
) -> CropEncoder:
    """Make a CosFace sphere network, 512-d, with the framing and range that it was trained on.

    Facke squeezed its crops and normalised them for ImageNet: ``crop_template=""``,
    ``resize="nearest"``, ``normalize="imagenet"``. Arguments and errors are those of
    :func:`build_arcface`.
    """
    spec = IdentityEncoderSpec(
        name="cosface-sphere", embedding_dim=512, input_size=(112, 96), template=crop_template
    )
    tensors = encoder_tensors(weights, revision, local_files_only=local_files_only)
    return CropEncoder(
        cosface_network(tensors, source=weights),
        spec,
        template="sphereface",
        normalize=NORMALIZE[choose("normalize", normalize, tuple(NORMALIZE))],
        resize=resize,
    )
