"""Recognisers that measure, and which of them may not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from facke_core import _json
from facke_core.building import encoder_settings, load_encoder
from facke_core.errors import UsageError
from facke_core.faces.align import alignment_matrix, warp
from facke_core.faces.reframe import retemplate
from facke_core.faces.templates import Alignment
from facke_core.identity.digest import encoder_digest
from facke_core.pipeline import SwapPipeline
from facke_core.plugins.registry import Registry
from facke_core.protocols import IdentityEncoder, SteeredSampler
from facke_core.types import Face

__all__ = ["Recogniser", "load_recogniser"]

NO_JUDGE = (
    "no judge was given: a face recogniser that had no part in the training. "
    "Add `judge='reid-0095'`"
)
NO_TRAINER = (
    "the model was trained without an identity encoder. Name one with `encoder=...` to measure it "
    "by"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recogniser:
    """An identity encoder and where it comes from."""

    encoder: IdentityEncoder
    settings: Mapping[str, Any]
    """Settings that build it, ``{"name": ..., **settings}``."""

    @property
    def name(self) -> str:
        """The name of the encoder in reports."""
        model = self.settings.get("model")
        return f"{self.settings['name']} {model}" if model else str(self.settings["name"])

    @property
    def digest(self) -> str:
        """SHA-256 over settings and numbers (:func:`facke_core.identity.digest.encoder_digest`)."""
        return encoder_digest(self.encoder, self.settings)

    def of_crop(self, crop: Tensor, alignment: Alignment) -> Tensor:
        """The vector (D,) of a crop (3, S, S) of ``alignment``, on the CPU."""
        spec = self.encoder.spec
        device = _device(self.encoder)
        with torch.inference_mode():
            framed = retemplate(crop[None].to(device), alignment, spec.template, spec.input_size)
            return self.encoder(framed)[0].float().cpu()

    def cut(self, photo: Tensor, face: Face, alignment: Alignment) -> Tensor:
        """The crop (1, 3, h, w) of a face of a photo (3, H, W) in the encoder's own framing and
        size.

        It is framed by ``alignment`` where the encoder takes crops as they come.
        """
        spec = self.encoder.spec
        size = spec.input_size if spec.template else (alignment.size, alignment.size)
        template = spec.template or alignment.template
        matrix = alignment_matrix(face.landmarks[None].float(), template, size)
        return warp(photo[None], matrix, size, border="border")

    def of_cut(self, crop: Tensor) -> Tensor:
        """The vector (D,) of a crop that :meth:`cut` returned, on the CPU."""
        with torch.inference_mode():
            return self.encoder(crop.to(_device(self.encoder)))[0].float().cpu()

    def of_photo(self, photo: Tensor, face: Face, alignment: Alignment) -> Tensor:
        """The vector (D,) of a face in a photo (3, H, W), on the CPU."""
        return self.of_cut(self.cut(photo, face, alignment))


def parse_encoder(text: str, option: str) -> str | dict[str, Any]:
    """Read an encoder from text: a name, or ``{"name": ..., **settings}`` written as JSON.

    Args:
        text: what was given.
        option: the option it was given to, for the message.

    Raises:
        UsageError: it begins like JSON and is none.
    """
    if not text.lstrip().startswith("{"):
        return text
    try:
        return dict(_json.parse(text))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{option} {text} is not valid JSON: {error}. "
            'Write, for example, \'{"name": "dlib-resnet29", "centre": false}\'.'
        ) from error


def load_recogniser(
    name: str | Mapping[str, Any], *, device: str | torch.device, registry: Registry
) -> Recogniser:
    """Load an encoder together with its settings; errors are those of
    :func:`facke_core.load_encoder`."""
    encoder = load_encoder(name, device=device, registry=registry)
    return Recogniser(encoder=encoder, settings=encoder_settings(name))


def trainer_of(pipeline: SwapPipeline) -> Recogniser | None:
    """The encoder that conditions the generator, if one does."""
    encoder = pipeline.identity_encoder
    if encoder is None:
        return None
    config = pipeline.source.config.identity_encoder if pipeline.source else None
    return Recogniser(encoder=encoder, settings=config or {"name": encoder.spec.name})


def check_judge(judge: Recogniser, pipeline: SwapPipeline, registry: Registry) -> None:
    """Refuse a judge that the model was made to please.

    That is the encoder that conditions the generator, and those of a
    :class:`~facke_core.protocols.SteeredSampler`. Networks are compared by their numbers, so
    another name does not help.

    Raises:
        UsageError: it is one of them.
    """
    trainer = trainer_of(pipeline)
    steering = [trainer] if trainer else []
    sampler = pipeline.method.sampler
    if isinstance(sampler, SteeredSampler):
        steering += [
            load_recogniser(name, device=pipeline.device, registry=registry)
            for name in sampler.encoders
        ]
    for other in steering:
        if same_network(judge.encoder, other.encoder):
            called = pipeline.source.name if pipeline.source else ""
            raise UsageError(
                f"{judge.name!r} cannot judge {called or 'this model'}: it is the encoder that the "
                "model was trained with or is steered by, so the model has learned to please it "
                "and its values flatter. Take another with `judge=...`, or, to see the flattered "
                "values nonetheless, add `allow_training_encoder=True`."
            )


def same_network(a: IdentityEncoder, b: IdentityEncoder) -> bool:
    """Tell whether two encoders have the same parameters, whatever they are called."""
    if a is b:
        return True
    first, second = _parameters(a), _parameters(b)
    return bool(first) and first == second


def _parameters(encoder: IdentityEncoder) -> list[str]:
    if not isinstance(encoder, nn.Module):
        return []
    return sorted(
        hashlib.sha256(p.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()
        for p in encoder.parameters()
    )


def _device(encoder: IdentityEncoder) -> torch.device:
    if isinstance(encoder, nn.Module):
        for tensor in encoder.parameters():
            return tensor.device
    return torch.device("cpu")
