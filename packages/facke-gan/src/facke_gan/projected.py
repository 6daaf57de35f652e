"""Projected discriminator: small heads on the mixed features of a frozen image network.

Paper: Projected GANs Converge Faster, arXiv:2111.01007; the variant that the official SimSwap's
later training script uses (four heads on ``tf_efficientnet_lite0``). Written from a description of
layers and constants. Backbone: timm (Apache-2.0); its ImageNet weights have their own licence.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from facke_core import DiscriminatorOutput
from facke_core.errors import UnavailableError
from facke_core.nn.normalize import Normalize

__all__ = ["ProjectedDiscriminator"]

_BACKBONE = "tf_efficientnet_lite0"
_BACKBONE_CHANNELS = (24, 40, 112, 320)
_LATERAL_CHANNELS = (64, 128, 256, 512)
_MIXED_CHANNELS = (64, 64, 128, 256)
_LADDERS = ((64, 64, 128, 256, 512), (64, 128, 256, 512), (128, 256, 512), (256, 512))


class ProjectedDiscriminator(nn.Module):
    """Four discriminator heads on four scales of frozen features.

    Only ``heads`` are trained; the backbone and the random mixing stay as built.

    Args:
        pretrained: fetch the backbone's ImageNet weights from the Hub (network access). Otherwise
            they are random until a state dict is loaded.
        batch_statistics: let the backbone's BatchNorm follow train mode, as the official training
            script does by never switching it off. By default it always uses its stored statistics.

    Raises:
        UnavailableError: timm is missing, or the backbone's weights cannot be fetched.
    """

    def __init__(self, *, pretrained: bool = False, batch_statistics: bool = False) -> None:
        super().__init__()
        self.batch_statistics = batch_statistics
        self.normalize = Normalize()
        self.backbone = backbone(pretrained=pretrained).requires_grad_(False)
        self.ccm = _mixers(_BACKBONE_CHANNELS, _LATERAL_CHANNELS).requires_grad_(False)
        self.csm = _mixers(_LATERAL_CHANNELS, _MIXED_CHANNELS).requires_grad_(False)
        self.heads = nn.ModuleList(_head(ladder) for ladder in _LADDERS)
        self.train()

    @property
    def num_scales(self) -> int:
        """The number of heads, 4."""
        return len(self.heads)

    def train(self, mode: bool = True) -> ProjectedDiscriminator:
        """Switch to train mode, in which the backbone takes part with ``batch_statistics`` only."""
        super().train(mode)
        self.backbone.train(mode and self.batch_statistics)
        return self

    def forward(self, image: Tensor) -> DiscriminatorOutput:
        """Judge images (B, 3, S, S) in [0, 1], S a multiple of 32 and at least 128.

        Returns:
            Logits (B, 1, S/32 - 3, S/32 - 3) and one backbone feature per head, fine to coarse.
        """
        x = self.normalize(image)
        features = []
        for layer in self.backbone:
            features.append(x := layer(x))
        mixed = self._mix(features)
        return DiscriminatorOutput(
            logits=[head(x) for head, x in zip(self.heads, mixed, strict=True)],
            features=[[feature] for feature in features],
        )

    def _mix(self, features: list[Tensor]) -> list[Tensor]:
        """Mix features across channels (CCM), then across scales, coarse to fine (CSM)."""
        mixed: list[Tensor] = []
        for i in reversed(range(len(features))):
            x = self.ccm[i](features[i])
            x = x + mixed[-1] if mixed else x
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
            mixed.append(self.csm[i](x))
        return mixed[::-1]


def _mixers(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(inputs, outputs, strict=True))


def _head(ladder: tuple[int, ...]) -> nn.Sequential:
    head = nn.Sequential()
    for cin, cout in pairwise(ladder):
        conv = spectral_norm(nn.Conv2d(cin, cout, 4, stride=2, padding=1))
        head.append(nn.Sequential(conv, nn.BatchNorm2d(cout), nn.LeakyReLU(0.2)))
    return head.append(spectral_norm(nn.Conv2d(ladder[-1], 1, 4, bias=False)))


def backbone(
    *, pretrained: bool = False, state: Mapping[str, Tensor] | None = None
) -> nn.ModuleList:
    """The four stages of EfficientNet-Lite0, with random weights, with those of the Hub, or with
    the tensors of ``state``, which are in timm's order under other names.

    Raises:
        UnavailableError: timm is missing, or the weights cannot be fetched.
    """
    try:
        import timm
    except ImportError as error:
        raise UnavailableError(
            f"{_BACKBONE} needs timm, which cannot be imported here: {error}. "
            "Run `pip install timm`."
        ) from error
    try:
        net: Any = timm.create_model(_BACKBONE, pretrained=pretrained)
    except Exception as error:
        raise UnavailableError(
            f"timm could not make {_BACKBONE!r} with pretrained={pretrained}: {error}. Check the "
            "network, or do without the ImageNet weights: "
            "`overrides=['discriminator.pretrained=false']`."
        ) from error
    if state is not None:
        net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
    blocks = net.blocks
    # timm's bn1 contains the activation that the original's names count separately, as number 2.
    stem = (net.conv_stem, net.bn1, nn.Identity(), blocks[0], blocks[1])
    stages = (stem, blocks[2:3], blocks[3:5], blocks[5:7])
    return nn.ModuleList(nn.Sequential(*stage) for stage in stages)
