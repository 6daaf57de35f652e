"""The result of a swap. torch is not imported here."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from facke_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

    from facke_core.types import Face, SwapRequest

__all__: list[str] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapResult:
    """A finished swap: the picture, and how it came about::

    result = swapper("source.jpg", "target.jpg", seed=0)
    result.save("out.png")  # or result.to_pil(), or the tensor result.image
    """

    image: Tensor
    """Picture (3, H, W) float32 RGB in [0, 1] on the CPU, of the size of the target photo."""
    faces: tuple[Face, ...]
    """The target faces that were swapped, largest first, each with its angle and its
    doubts; none where crops were swapped."""
    seconds: Mapping[str, float]
    """Wall time per stage, in seconds: detect, align, occlusion, encode, generate, paste, total."""
    request: SwapRequest
    """Method, weights, seed and settings, as the metadata of a saved picture discloses them."""
    faces_seen: int = 0
    """How many faces were seen in the target; where only the largest was asked for, small ones
    beside it were not looked for."""
    source: Face | None = None
    """The face that gave the identity; None where nothing was detected."""
    mask: Tensor | None = None
    """The share (1, H, W) in [0, 1] of each pixel that is swapped; None where crops were swapped.
    """
    alpha: Tensor | None = None
    """Transparency (1, H, W) of the target in [0, 1], kept as it was."""

    def to_pil(self) -> Any:
        """Return an 8-bit ``PIL.Image`` (RGB, or RGBA when the target had transparency)."""
        from facke_core.images.io import to_pil

        return to_pil(self.image, self.alpha)

    def save(self, path: str, *, overwrite: bool = False) -> None:
        """Write the picture with its disclosure metadata (:mod:`facke_core.images.provenance`).

        Args:
            path: where to; its ending chooses the format.
            overwrite: replace a file that is there.

        Raises:
            ImageError: it cannot be written, or is there already and ``overwrite`` is False.
        """
        from facke_core.images.io import write_image
        from facke_core.images.provenance import disclosure

        write_image(path, self.image, self.alpha, xmp=disclosure(self.request), overwrite=overwrite)

    def save_mask(self, path: str, *, overwrite: bool = False) -> None:
        """Write :attr:`mask` as a grey picture, white where the face was swapped.

        Args:
            path: where to; its ending chooses the format.
            overwrite: replace a file that is there.

        Raises:
            ImageError: it cannot be written, or is there already and ``overwrite`` is False.
            UsageError: crops were swapped, which have no mask.
        """
        from facke_core.images.io import write_image

        if self.mask is None:
            raise UsageError("Crops were swapped, and nothing was pasted: there is no mask.")
        write_image(path, self.mask.expand(3, -1, -1), overwrite=overwrite)


class StageClock:
    """Wall time per stage, in seconds. Stages that run beside each other in threads are added."""

    def __init__(self, stages: Iterable[str]) -> None:
        self._start = time.perf_counter()
        self._seconds = dict.fromkeys(stages, 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside towards a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[name] += time.perf_counter() - start

    def seconds(self, *, total: bool = False) -> dict[str, float]:
        """Stage -> seconds so far; with ``total`` also the time since this clock was made."""
        whole = {"total": time.perf_counter() - self._start} if total else {}
        return {**self._seconds, **whole}
