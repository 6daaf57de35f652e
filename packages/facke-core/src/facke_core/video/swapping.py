"""Swapping the faces of a clip by :class:`~facke_core.pipeline.SwapPipeline`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from facke_core._files import sha256_of
from facke_core.faces.choosing import FaceChoice
from facke_core.faces.portrait import Portrait
from facke_core.identity.people import Cast
from facke_core.images.files import pictures_in
from facke_core.images.io import read_image
from facke_core.loading import load
from facke_core.pipeline import SourceLike, SwapPipeline
from facke_core.plugins.registry import Registry, default_registry
from facke_core.protocols import SeededSampler
from facke_core.types import Progress, SwapRequest
from facke_core.video.frames import Change, Changed
from facke_core.video.people import followed
from facke_core.video.work import ClipReport, ClipSettings, Engine, Watch, change_clip
from facke_core.weights.sources import Source

__all__ = ["swap_video"]


def swap_video(
    swapper: SwapPipeline,
    source: SourceLike | Cast,
    clip: str | Path,
    out: str | Path,
    *,
    seed: int | None = None,
    face: FaceChoice = "largest",
    source_face: int | None = None,
    start: float | None = None,
    end: float | None = None,
    fps: float | None = None,
    codec: str | None = None,
    crf: int | None = None,
    audio: str = "copy",
    resume: bool = False,
    overwrite: bool = False,
    on_progress: Progress | None = None,
    on_frame: Callable[[Changed], None] | None = None,
) -> ClipReport:
    """Swap the faces of a clip; its times, sound, subtitles, chapters and tags stay as they are.

    While it lasts there is a folder beside ``out``, called ``OUT.unfinished``, with the segments
    that are finished.

    Args:
        swapper: what :func:`facke_core.load` returns.
        source: gives the identity, as for a photograph; or who becomes whom
            (:class:`~facke_core.identity.people.Cast`).
        clip: a clip of any kind that FFmpeg reads, or an animated GIF, WebP or PNG.
        out: where to; its ending chooses the container: ``.mp4``, ``.mov``, ``.mkv``, ``.webm``,
            ``.gif``, ``.webp`` or ``.png``.
        seed: seed of the noise. None counts as 0, but samplers that draw only for somebody who asks
            for a seed do not draw.
        face: the faces of each frame to swap; those that a cast names are not counted.
        source_face: the face of the source.
        start: seconds; what is shown before is left out.
        end: seconds; what is shown from there on is left out.
        fps: frames per second. None: each frame at its own time.
        codec: ``h264``, ``hevc``, ``vp9``, ``av1``, ``ffv1`` (lossless) or ``prores``. None: the
            clip's own where that can be written, or H.264.
        crf: constant quality of the codec; lower is better.
        audio: ``copy``, or ``none`` to leave sound out.
        resume: go on with what an interrupted work left.
        overwrite: replace a file that is there.
        on_progress: called after each frame.
        on_frame: called with each frame.

    Raises:
        ImageError: a file cannot be read or written.
        NoFaceError: no face in the source, or in any frame; nothing is written.
        UsageError: settings that are not possible, or of another work that is unfinished.
        UnavailableError: PyAV is missing.

    Warns:
        FackeWarning: what the format of the pictures, or the container, cannot keep.
    """
    seed = seed_of(swapper, seed)
    change = swapped(swapper, source, seed=seed, face=face, source_face=source_face)
    return change_clip(
        Path(clip),
        Path(out),
        lambda _: change,
        about=about(swapper, source, seed=seed, face=face, source_face=source_face),
        request=request_of(swapper, seed),
        settings=ClipSettings(start=start, end=end, fps=fps, codec=codec, crf=crf, audio=audio),
        resume=resume,
        overwrite=overwrite,
        watch=Watch(on_progress=on_progress, on_frame=on_frame),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Swapping:
    """What several processes need to swap the frames of one clip: paths and plain values."""

    weights: str | Source
    """The weights, as :func:`facke_core.load` takes them."""
    source: Any
    """The source, or the cast, by paths."""
    face: Any = "largest"
    source_face: int | None = None
    sampler: Mapping[str, Any] = field(default_factory=dict)
    blend: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    device: str = "cpu"
    backend: str = "torch"
    dtype: Any = None
    registry: Callable[[], Registry] = default_registry
    """A function that returns where names are looked up; it is called in each process."""

    def with_seed(self, seed: int | None) -> Swapping:
        """The same with another seed."""
        return replace(self, seed=seed)

    def load(self) -> SwapPipeline:
        """Load the pipeline."""
        return load(
            self.weights,
            device=self.device,
            dtype=self.dtype,
            backend=self.backend,
            sampler=self.sampler,
            blend=self.blend,
            registry=self.registry(),
        )

    def __call__(self, threads: int | None) -> Change:
        """Load the pipeline, and return what swaps with it."""
        import torch

        if threads:
            torch.set_num_threads(threads)
        return swapped(
            self.load(),
            self.source,
            seed=self.seed,
            face=self.face,
            source_face=self.source_face,
        )


def seed_of(swapper: SwapPipeline, seed: int | None) -> int | None:
    """The seed of a clip: each of its segments begins with it, whoever makes it."""
    if seed is None and not isinstance(swapper.method.sampler, SeededSampler):
        return 0
    return seed


def about(swapper: SwapPipeline, source: SourceLike | Cast, **choices: Any) -> dict[str, Any]:
    """Say what decides the pictures, as plain values: weights, settings, and the source's own."""
    weights = swapper.source
    settings = getattr(swapper.method.sampler, "__dataclass_fields__", {})
    values = {name: getattr(swapper.method.sampler, name) for name in settings}
    return {
        "source": digest_of(source),
        "weights": {"name": weights.name, "revision": weights.revision} if weights else {},
        "method": request_of(swapper, None).method,
        "sampler": json.loads(json.dumps(values, default=str)),
        "blend": asdict(swapper.blend),
        "backend": str(swapper.choice),
        **choices,
    }


def digest_of(source: SourceLike | Cast) -> str:
    """SHA-256 of what a source consists of, whatever it is called."""
    digest = hashlib.sha256()

    def take(each: Any) -> None:
        if isinstance(each, Cast):
            take([*each.people, each.others])
            digest.update(json.dumps(each.during).encode())
        elif isinstance(each, Portrait):
            take(
                [value for view in each.views for value in (view.photo.image, view.face.landmarks)]
            )
        elif isinstance(each, Tensor):
            digest.update(each.contiguous().numpy().tobytes())
        elif isinstance(each, list | tuple):
            digest.update(f"({len(each)}".encode())
            for part in each:
                take(part)
        elif isinstance(each, str | os.PathLike) and Path(each).is_dir():
            take(pictures_in(Path(each)))
        elif isinstance(each, str | os.PathLike):
            digest.update(sha256_of(Path(each)).encode())
        elif each is not None:
            take(read_image(each).image)

    take(source)
    return digest.hexdigest()


def request_of(swapper: SwapPipeline, seed: int | None) -> SwapRequest:
    """What the clip discloses."""
    weights, generator = swapper.source, swapper.method.generator
    return SwapRequest(
        method=weights.config.method if weights else type(generator).__name__,
        weights=weights.name if weights else "",
        revision=weights.revision if weights else "",
        seed=seed,
        backend=str(swapper.choice),
    )


def swapped(
    swapper: SwapPipeline,
    source: SourceLike | Cast,
    *,
    seed: int | None = None,
    face: FaceChoice = "largest",
    source_face: int | None = None,
) -> Change:
    """A change that swaps faces which are followed from frame to frame."""
    players = swapper.players(source, source_face=source_face)
    return followed(swapper, players, face=face, seed=seed)


def change_by(
    swapping: Swapping,
    swapper: SwapPipeline,
    clip: Path,
    out: Path,
    *,
    settings: ClipSettings,
    engine: Engine | None = None,
    resume: bool = False,
    overwrite: bool = False,
    watch: Watch | None = None,
) -> ClipReport:
    """Swap the faces of a clip as :func:`swap_video` does, by any engine.

    Args:
        swapping: what the engine's processes do.
        swapper: the pipeline that ``swapping`` loads, for this process.
        clip: the clip.
        out: where to.
        settings: what is written, and how.
        engine: who makes the segments; None: this process.
        resume: go on with what an interrupted work left.
        overwrite: replace a file that is there.
        watch: who hears how far it has come.
    """
    choices: dict[str, Any] = {
        "seed": swapping.seed,
        "face": swapping.face,
        "source_face": swapping.source_face,
    }
    local = swapped(swapper, swapping.source, **choices)
    return change_clip(
        clip,
        out,
        swapping if engine else lambda _: local,
        about=about(swapper, swapping.source, **choices),
        request=request_of(swapper, swapping.seed),
        settings=settings,
        engine=engine,
        resume=resume,
        overwrite=overwrite,
        watch=watch,
    )
