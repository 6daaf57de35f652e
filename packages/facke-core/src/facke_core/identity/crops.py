"""Face recognisers on the crops of a method: framing, size and range of their input."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from facke_core.errors import ConfigError, did_you_mean
from facke_core.faces.reframe import reframe, stretch
from facke_core.faces.templates import template_points
from facke_core.identity.frozen import FrozenEncoder
from facke_core.nn.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from facke_core.types import IdentityEncoderSpec

__all__ = ["CropEncoder"]

RESIZE = ("antialias", "nearest", "bicubic")
NORMALIZE = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Name -> mean and standard deviation per channel, for images in [0, 1]."""


def choose(option: str, value: str, known: tuple[str, ...]) -> str:
    """Return ``value``, a setting of an encoder, if it is one of ``known``.

    Raises:
        ConfigError: it is not; names ``option``.
    """
    if value not in known:
        raise ConfigError(
            f"{option}={value!r} is unknown.{did_you_mean(value, known)} Use {', '.join(known)}."
        )
    return value


class CropEncoder(FrozenEncoder):
    """An identity encoder: crops (B, 3, H, W) in [0, 1] of any size to unit embeddings (B, D).

    Args:
        network: maps normalised inputs (B, 3, height, width) of ``spec.input_size`` to embeddings.
        spec: ``spec.template`` names the template that the incoming crops are aligned to. Empty:
            crops are stretched to ``spec.input_size`` as they are.
        template: the template of the network's training; crops are brought to it by a scale and a
            shift.
        normalize: mean and standard deviation per channel of the network's input.
        resize: ``antialias``; ``nearest`` (Facke and SimSwap at inference) and ``bicubic``
            (SimSwap's training) reproduce the originals and need an empty ``spec.template``.

    Raises:
        ConfigError: an unknown ``resize``, or one that needs an empty ``spec.template``.
        UnknownNameError: no template has one of these names.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: IdentityEncoderSpec,
        *,
        template: str,
        normalize: tuple[tuple[float, float, float], tuple[float, float, float]],
        resize: str = "antialias",
    ) -> None:
        choose("resize", resize, RESIZE)
        if spec.template and resize != "antialias":
            raise ConfigError(
                f"resize={resize!r} takes crops as they come, but crop_template={spec.template!r} "
                "asks for another framing. Leave out one of them."
            )
        super().__init__(network, spec)
        self.normalize = Normalize(*normalize)
        self.resize = resize
        self.template = template
        for name in (template, spec.template):  # refuses an unknown name now
            if name:
                template_points(name, spec.input_size)

    def prepare(self, face: Tensor) -> Tensor:
        """The network's normalised input (B, 3, height, width) for crops in [0, 1]."""
        size = self.spec.input_size
        if self.resize != "antialias":
            face = F.interpolate(face, size, mode=self.resize)
        elif self.spec.template:
            face = reframe(face, self.spec.template, self.template, size)
        elif face.shape[-2:] != size:
            face = stretch(face, size)
        return self.normalize(face)

    def forward(self, face: Tensor) -> Tensor:
        """Unit embeddings (B, D) float32 of crops (B, 3, H, W) in [0, 1]."""
        return F.normalize(self.network(self.prepare(face)).float(), dim=1)
