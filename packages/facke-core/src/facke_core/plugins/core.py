"""Core's own plugin offers identity encoders, face detectors, metrics and converters."""

from __future__ import annotations

from facke_core.plugins.hookspecs import hookimpl
from facke_core.plugins.specs import ConverterSpec, DetectorSpec, EncoderSpec, MetricSpec

__all__: list[str] = []


@hookimpl
def facke_identity_encoders() -> list[EncoderSpec]:
    """Describe core's recognisers; the first works offline."""
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
            license="CC-BY-NC-4.0",  # of SimSwap's weights; insightface's are non-commercial too
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
    """Describe core's detectors, the default first."""
    return [
        DetectorSpec(
            name="mediapipe",
            summary="MediaPipe detector and 478-point mesh; offline (extra: faces)",
            build="facke_core.faces.detect:build_mediapipe",
            available="facke_core.faces.graphs:mediapipe_available",
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


@hookimpl
def facke_metrics() -> list[MetricSpec]:
    """Describe the metrics of :mod:`facke_core.evaluation.metrics`."""

    def metric(name: str, summary: str, *, higher_is_better: bool = False) -> MetricSpec:
        return MetricSpec(
            name=name,
            summary=summary,
            build=f"facke_core.evaluation.metrics:{name.replace('-', '_')}",
            higher_is_better=higher_is_better,
        )

    return [
        metric("recon-l1", "mean absolute error of swap(x, x)"),
        metric("psnr", "PSNR of swap(x, x) in dB", higher_is_better=True),
        metric("ssim", "SSIM of swap(x, x)", higher_is_better=True),
        metric("id-loss", "1 - cos(result, source), by the encoder of the training"),
        metric("id-retrieval", "1 - cos(result, source), by the judge"),
        metric(
            "id-retrieval-l2", "distance of the unit vectors of result and source, by the judge"
        ),
        metric(
            "id-gain",
            "cos(result, source) - cos(target, source), by the judge",
            higher_is_better=True,
        ),
        metric(
            "retrieval-top1",
            "the source is the nearest of all source people",
            higher_is_better=True,
        ),
        metric("retrieval-top5", "the source is one of the five nearest", higher_is_better=True),
        metric("pose-error", "angle between the heads of target and result, in degrees"),
        metric("expression-error", "distance of eyes, brows and lips, without the pose"),
        metric("background", "mean absolute change outside of the face"),
        metric("frechet", "Fréchet distance of results and pictures, in the judge's vectors"),
        MetricSpec(
            name="artefacts",
            summary="how much a face looks swapped, by a small frozen network",
            build="facke_core.evaluation.artefacts:artefacts",
            higher_is_better=False,
        ),
    ]


@hookimpl
def facke_converters() -> list[ConverterSpec]:
    """Describe the checkpoints of recognisers that core reads."""
    return [
        ConverterSpec(
            name="arcface",
            summary="arcface_checkpoint.tar of SimSwap and Facke (identity encoder)",
            target="facke_core.convert.kinds:arcface",
        ),
        ConverterSpec(
            name="cosface",
            summary="CosFace sphere20 and 64, plain or pickled (identity encoder)",
            target="facke_core.convert.kinds:cosface",
        ),
        ConverterSpec(
            name="insightface",
            summary="recognisers of insightface as ONNX: w600k_r50 and its kin (identity encoder)",
            target="facke_core.convert.graphs:insightface",
        ),
    ]
