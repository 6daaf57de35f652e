"""OpenVINO's face-reidentification-retail-0095 as an identity encoder: a judge for everybody.

Network: MobileNetV2 (arXiv 1801.04381) with squeeze-and-excitation (arXiv 1709.01507), 1.1 million
parameters, 256 numbers per face; no model of facke is trained with it.
Code: written for facke (:mod:`~facke_core.identity.openvino_ir`).
Weights: Open Model Zoo of OpenVINO, Apache-2.0, from their publisher. They are no part of facke:
:func:`fetch` gets them once, and nothing else does.
"""

from __future__ import annotations

import hashlib
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import torch.nn.functional as F
from torch import Tensor, nn

from facke_core import _cache
from facke_core.environment import cache_folder
from facke_core.errors import UnavailableError, VerificationError
from facke_core.faces.reframe import stretch
from facke_core.identity.frozen import FrozenEncoder
from facke_core.identity.openvino_ir import read_ir
from facke_core.types import IdentityEncoderSpec

__all__: list[str] = []

NAME = "reid-0095"
NETWORK = "face-reidentification-retail-0095"
ADDRESS = (
    "https://download.01.org/opencv/2019/open_model_zoo/R4/20191230_170000_models_bin/"
    f"{NETWORK}/FP32/"
)
FILES = {
    f"{NETWORK}.xml": (
        225_830,
        "a16ac1cfe4334a50ca2ce48639e46f8e981351eb25943f73e3425a47939662b3",
    ),
    f"{NETWORK}.bin": (
        4_427_256,
        "03836a6a1d03828322491b0608a579b1c47e5097d355c489b5b8aaf5fce1ef48",
    ),
}
"""Name at :data:`ADDRESS` -> bytes and SHA-256, as the model zoo's ``model.yml`` has them."""
COMMAND = "python -c 'from facke_core.identity.reid_0095 import fetch; fetch()'"
SECONDS = 60
"""How long the publisher may be silent."""
SIZE = 128
"""Side in pixels of the crops that the network takes."""
TEMPLATE = "sphereface_128"


class Reid0095(FrozenEncoder):
    """The network as an encoder: crops aligned to :data:`TEMPLATE` to unit vectors of 256 numbers.

    It wants BGR in [0, 255] by itself.
    """

    def __init__(self, network: nn.Module) -> None:
        spec = IdentityEncoderSpec(
            name=NAME,
            embedding_dim=256,
            input_size=(SIZE, SIZE),
            template=TEMPLATE,
            license="Apache-2.0",
        )
        super().__init__(network, spec)

    def forward(self, face: Tensor) -> Tensor:
        """Unit vectors (B, 256) of crops (B, 3, H, W) in [0, 1]."""
        if face.shape[-2:] != (SIZE, SIZE):
            face = stretch(face, (SIZE, SIZE))
        return F.normalize(self.network(face.flip(1) * 255).flatten(1), dim=1)


def build() -> Reid0095:
    """Make the encoder, with the weights that :func:`fetch` kept.

    Raises:
        UnavailableError: they were not fetched.
        VerificationError: they are not the publisher's.
    """
    if reason := available():
        raise UnavailableError(f"{reason[0].upper()}{reason[1:]}")
    xml, numbers = map(_checked, FILES)
    return Reid0095(read_ir(xml, numbers, source=f"{NETWORK}.xml"))


def available() -> str:
    """The reason why the encoder cannot be used here, and what to do; empty if it can."""
    if all(_file(name).is_file() for name in FILES):
        return ""
    return (
        f"the weights of {NAME} were not fetched yet (4.7 MB, Apache-2.0, from "
        f"{ADDRESS.split('/')[2]}). With a network, run once: {COMMAND}"
    )


def fetch() -> Path:
    """Download what is not kept yet, check it, and keep it. Uses the network.

    Returns:
        The folder with the two files of :data:`FILES`.

    Raises:
        UnavailableError: the network is forbidden, the download failed, or nothing can be kept.
        VerificationError: the publisher's files are others than they were.
    """
    from huggingface_hub import constants

    for name in FILES:
        if _sha256(_file(name)) == FILES[name][1]:
            continue
        if constants.HF_HUB_OFFLINE:
            raise UnavailableError(
                f"The weights of {NAME} are not kept here, and HF_HUB_OFFLINE is set. Unset it."
            )
        if _cache.write(f"{NAME}/{name}", _download(name)) is None:
            raise UnavailableError(
                f"The weights of {NAME} cannot be kept. Make room, or let FACKE_CACHE name another "
                "folder."
            )
    return cache_folder() / NAME


def _download(name: str) -> bytes:
    size, digest = FILES[name]
    try:
        with urlopen(ADDRESS + name, timeout=SECONDS) as answer:
            content: bytes = answer.read(size + 1)
    except (OSError, ValueError, HTTPException) as error:
        raise UnavailableError(
            f"{ADDRESS}{name} cannot be downloaded: {error}. Check the network and try again, or "
            f"copy the file from elsewhere to {_file(name)}."
        ) from error
    if (sha256 := hashlib.sha256(content).hexdigest()) != digest:
        told = f"more than {size}" if len(content) > size else str(len(content))
        raise VerificationError(
            f"{ADDRESS}{name} has {told} bytes with sha256 {sha256}, expected {size} with "
            f"{digest}. The download broke off, or the publisher put another file there. Nothing "
            "was kept: try again."
        )
    return content


def _file(name: str) -> Path:
    return cache_folder() / NAME / name


def _sha256(file: Path) -> str:
    """The digest of a file; empty where there is none."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def _checked(name: str) -> bytes:
    """The content of a kept file, which is the very one that is pinned."""
    file = _file(name)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UnavailableError(f"{file} cannot be read: {error}. Check its rights.") from error
    sha256, digest = hashlib.sha256(content).hexdigest(), FILES[name][1]
    if sha256 != digest:
        raise VerificationError(
            f"{file} has sha256 {sha256}, expected {digest}: it is damaged or another file. "
            f"Run: {COMMAND}"
        )
    return content
