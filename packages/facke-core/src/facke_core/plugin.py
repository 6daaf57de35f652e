"""Core's own contributions: identity encoders and face detectors."""

from __future__ import annotations

from facke_core.hookspecs import hookimpl
from facke_core.methods import DetectorSpec, EncoderSpec


@hookimpl
def facke_identity_encoders() -> list[EncoderSpec]:
    return [
        EncoderSpec(
            name="dlib-resnet29",
            summary="dlib's face recognition ResNet, 128-d, centred; offline",
            build="facke_core.identity.dlib_resnet:build",
            available="facke_core.identity.dlib_resnet:available",
            license="CC0-1.0",
        ),
        EncoderSpec(
            name="timm",
            summary="any timm face recogniser on the Hub: hf:org/repo@COMMIT",
            build="facke_core.identity.timm_encoder:build",
            license="",
        ),
        EncoderSpec(
            name="arcface",
            summary="SE-IR ResNet of the original SimSwap and Facke (converted checkpoints)",
            build="facke_core.identity.iresnet:build_arcface",
            license="",
        ),
        EncoderSpec(
            name="cosface-sphere",
            summary="CosFace sphere20 and 64, the original judge (converted checkpoints)",
            build="facke_core.identity.iresnet:build_cosface",
            license="",
        ),
    ]


@hookimpl
def facke_face_detectors() -> list[DetectorSpec]:
    return [
        DetectorSpec(
            name="mediapipe",
            summary="MediaPipe detector and 478-point mesh; offline (extra: faces)",
            build="facke_core.faces.detect:build_mediapipe",
            available="facke_core.faces.detect:mediapipe_available",
            license="Apache-2.0",
        ),
        DetectorSpec(
            name="yunet",
            summary="kornia's YuNet; its weights are fetched once and pinned",
            build="facke_core.faces.detect:build_yunet",
            available="facke_core.faces.detect:yunet_available",
            license="Apache-2.0",
        ),
    ]
