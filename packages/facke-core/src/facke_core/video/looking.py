"""Looking at clips without changing them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from facke_core.building import LazyDetector, every_face, glanced
from facke_core.plugins.registry import Registry
from facke_core.types import Face
from facke_core.video import pixels
from facke_core.video.frames import Frame
from facke_core.video.media import Clip
from facke_core.video.reading import frames_of

__all__: list[str] = []


def frames_in(path: Path, clip: Clip) -> Iterator[Frame]:
    """All frames of a clip that :func:`facke_core.video.work.look` looked at, upright.

    Raises:
        ImageError: it cannot be read.
    """
    layout = pixels.layout_of(pixels.working_format(clip.pix_fmt), clip.colour, clip.height)
    turn = pixels.turn_of(clip.matrix)
    for index, native in frames_of(path, clip, range(len(clip.times))):
        image = pixels.upright(pixels.to_rgb(pixels.working(native), layout), turn).contiguous()
        yield Frame(index, clip.seconds(index), image)


def finder(registry: Registry) -> Callable[..., list[Face]]:
    """A function that finds faces as :meth:`~facke_core.pipeline.SwapPipeline.detect` does, without
    a pipeline."""
    detector = LazyDetector(registry)

    def detect(photo: Tensor, *, every: bool = False, quick: bool = False) -> list[Face]:
        if quick:
            return glanced(detector, photo)
        return every_face(detector, photo) if every else detector(photo)

    return detect
