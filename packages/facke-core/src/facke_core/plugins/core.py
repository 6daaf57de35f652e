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
            name="reid-0095",
            summary="a judge: face-reidentification-retail-0095, 256-d; fetched once and pinned",
            build="facke_core.identity.reid_0095:build",
            available="facke_core.identity.reid_0095:available",
            license="Apache-2.0",
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


_METRICS = """
metrics     recon-l1          lower   mean absolute error of swap(x, x)
metrics     psnr              higher  PSNR of swap(x, x) in dB
metrics     ssim              higher  SSIM of swap(x, x)
metrics     id-loss           lower   1 - cos(result, source), by the encoder of the training
metrics     id-retrieval      lower   1 - cos(result, source), by the judge
metrics     id-retrieval-l2   lower   distance of unit vectors of result and source, by the judge
metrics     id-gain           higher  cos(result, source) - cos(target, source), by the judge
metrics     retrieval-top1    higher  the source is the nearest of all source people
metrics     retrieval-top5    higher  the source is one of the five nearest
attributes  pose-error        lower   angle between the heads of target and result, in degrees
attributes  expression-error  lower   distance of eyes, brows and lips, without the pose
attributes  gaze              lower   movement of the irises in their eyes
attributes  lids              lower   difference of the openings of the eyes
attributes  mouth             lower   difference of the opening of the mouth
attributes  background        lower   mean absolute change outside of the face
appearance  sharpness         higher  sharpness of the face in result and target; 1 is best
appearance  seam              lower   difference in colour along the edge of the mask
appearance  occluders         higher  PSNR in dB of things drawn before the target's face
metrics     frechet           lower   Fréchet distance of results and pictures, by the judge
metrics     kid               lower   kernel distance of result crops and real crops
artefacts   artefacts         lower   how much a face looks swapped, by a small frozen network
clips       flicker           lower   movement over the frames of a clip, of the target's; 1 is best
"""
"""Module, name, better direction and summary of each metric."""


@hookimpl
def facke_metrics() -> list[MetricSpec]:
    """Describe the metrics of :mod:`facke_core.evaluation`."""
    return [
        MetricSpec(
            name=name,
            summary=summary,
            build=f"facke_core.evaluation.{module}:{name.replace('-', '_')}",
            higher_is_better=better == "higher",
        )
        for module, name, better, summary in (
            line.split(maxsplit=3) for line in _METRICS.strip().splitlines()
        )
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
