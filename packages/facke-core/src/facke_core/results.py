"""What a swap gives back. torch is not imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from facke_core.types import Face, SwapRequest

__all__ = ["SwapResult"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapResult:
    """A finished swap."""

    image: Tensor
    """(3, H, W) float32 RGB in [0, 1], the size of the target photo."""
    faces: tuple[Face, ...]
    """The target faces that were swapped."""
    seconds: Mapping[str, float]
    """Wall time per stage: detect, align, encode, generate, paste, total."""
    request: SwapRequest
    alpha: Tensor | None = None
    """(1, H, W) in [0, 1]: the target's transparency, kept as it was."""

    def to_pil(self) -> Any:
        """An 8-bit ``PIL.Image`` (RGB, or RGBA when the target had transparency)."""
        from facke_core.images.io import to_pil

        return to_pil(self.image, self.alpha)

    def save(self, path: str, *, overwrite: bool = False) -> None:
        """Write the picture with its disclosure metadata (:mod:`facke_core.images.provenance`)."""
        from facke_core.images.io import write_image
        from facke_core.images.provenance import disclosure

        write_image(path, self.image, self.alpha, xmp=disclosure(self.request), overwrite=overwrite)
