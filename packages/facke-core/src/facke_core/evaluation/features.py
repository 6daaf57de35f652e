"""What distances between sets of pictures look at: inner features of dlib's recogniser.

They come without a download: a dependency of core carries the weights, which are pinned by their
digest. ImageNet's networks, as FID and KID have them, would be one more package, whose weights are
pickled. Methods are trained to please what dlib's last layer says of a face. So it is not asked:
these are the 256 numbers before it, which tell blur, noise and drawn faces from photographs, and
hardly a smile from a calm face.
"""

from __future__ import annotations

import torch
from torch import Tensor

from facke_core.evaluation.judges import Recogniser
from facke_core.identity.dlib_resnet import SIZE, TEMPLATE, DlibResNet29, load_state
from facke_core.identity.frozen import FrozenEncoder
from facke_core.types import IdentityEncoderSpec

__all__: list[str] = []

NAME = "dlib-resnet29, before its last layer"


class InnerFeatures(FrozenEncoder):
    """The features of dlib's network before its last layer."""

    network: DlibResNet29

    def forward(self, face: Tensor) -> Tensor:
        """Features (B, 256), at least 0, of crops (B, 3, 150, 150) in [0, 1] of dlib's framing."""
        return self.network.features(face)


def load_features(device: str | torch.device) -> Recogniser:
    """Load the features as something that sees crops.

    Raises:
        UnavailableError: the package ``face_recognition_models`` is not installed.
        VerificationError: its file is not the one whose digest facke knows.
    """
    network = DlibResNet29()
    network.load_state_dict(load_state(), strict=True)
    spec = IdentityEncoderSpec(
        name=NAME, embedding_dim=256, input_size=(SIZE, SIZE), template=TEMPLATE, license="CC0-1.0"
    )
    network = network.to(memory_format=torch.channels_last)
    return Recogniser(encoder=InnerFeatures(network, spec).to(device), settings={"name": NAME})
