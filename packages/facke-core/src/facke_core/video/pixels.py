"""Frames of a codec's own format to RGB and back, without touching what nobody changed.

What was changed comes back as a difference: the planes of the frame, as they were decoded, get the
difference of the two pictures in their own terms, where the mask is not 0. So every other sample
keeps its value to the last bit, whatever the format; chroma is shared by the pixels that it covers.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__: list[str] = []

WORKING = {
    **dict.fromkeys(("nv12", "nv21"), "yuv420p"),
    **dict.fromkeys(("nv16", "yuyv422", "uyvy422", "yvyu422"), "yuv422p"),
    **dict.fromkeys(("nv24", "nv42"), "yuv444p"),
    **dict.fromkeys(("rgb24", "bgr24", "rgb0", "bgr0", "0rgb", "0bgr", "rgb8", "bgr8"), "gbrp"),
    **dict.fromkeys(("rgba", "bgra", "argb", "abgr", "pal8"), "gbrap"),
    **dict.fromkeys(("rgb48le", "rgb48be", "bgr48le", "bgr48be"), "gbrp16le"),
    **dict.fromkeys(("rgba64le", "rgba64be", "bgra64le", "bgra64be"), "gbrap16le"),
    "p010le": "yuv420p10le",
    "p210le": "yuv422p10le",
    "p012le": "yuv420p12le",
    "p016le": "yuv420p16le",
    "p216le": "yuv422p16le",
    "p416le": "yuv444p16le",
    "gray8": "gray",
    "monow": "gray",
    "monob": "gray",
    "rgb565le": "gbrp",
    "rgb555le": "gbrp",
    "ya8": "gbrap",
    "ya16le": "gbrap16le",
    "v30xle": "yuv444p10le",
    "xyz12le": "gbrp12le",
}
"""Packed formats -> the format with one plane per component that holds the same values."""
_LUMA = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114),
         7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}  # fmt: skip
"""Number of a matrix (ITU-T H.273) -> the shares of red and blue in luma."""


class Turn(NamedTuple):
    """What makes a frame upright, from right to left: flips, after a transposition."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False


class Layout(NamedTuple):
    """How the planes of a frame are to be read."""

    bits: int
    kind: str
    """``rgb``, ``grey`` or ``yuv``."""
    full: bool
    """True where values use all codes, False where black is 16 of 255."""
    red: float
    blue: float
    """Shares of red and blue in luma."""


def working(frame: Any) -> Any:
    """Return the frame in a format with a plane for each component, little-endian."""
    name = working_format(frame.format.name)
    return frame if name == frame.format.name else frame.reformat(format=name)


def working_format(name: str) -> str:
    """The format in which frames of a format are changed."""
    if name in WORKING:
        return WORKING[name]
    return f"{name[:-2]}le" if name.endswith("be") else name


def layout_of(name: str, colour: list[int], height: int) -> Layout:
    """Say how to read frames of a format, and of these numbers of colour.

    Where nothing is said of the matrix, it is that of HD above 576 lines, and of SD below.
    """
    from facke_core.environment import require

    form = require("av").VideoFormat(name)
    kind = "rgb" if form.is_rgb else ("grey" if name.startswith("gray") else "yuv")
    red, blue = _LUMA.get(colour[3] if colour else 2, _LUMA[1 if height > 576 else 6])
    full = kind == "rgb" or name.startswith("yuvj") or (bool(colour) and colour[0] == 2)
    return Layout(form.components[0].bits, kind, full, red, blue)


def turn_of(matrix: list[int]) -> Turn:
    """What a display matrix asks for; turns by other angles than right ones are left to players."""
    if not matrix:
        return Turn()
    a, b, _, c, d = matrix[:5]
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Turn(False, a < 0, d < 0)
    return Turn(True, c < 0, b < 0)


def upright(image: Tensor, turn: Turn) -> Tensor:
    """Turn a stored picture (C, H, W) upright."""
    image = image.transpose(1, 2) if turn.transpose else image
    return image.flip([axis for axis, wanted in ((2, turn.flip_x), (1, turn.flip_y)) if wanted])


def stored(image: Tensor, turn: Turn) -> Tensor:
    """Undo :func:`upright`."""
    image = image.flip([axis for axis, wanted in ((2, turn.flip_x), (1, turn.flip_y)) if wanted])
    return image.transpose(1, 2) if turn.transpose else image


def planes_of(frame: Any) -> list[np.ndarray[Any, Any]]:
    """Views (h, w) of the planes of a frame in a working format; writing changes the frame."""
    views = []
    kind = np.uint8 if frame.format.components[0].bits <= 8 else np.dtype("<u2")
    for plane in frame.planes:
        lines = np.frombuffer(plane, kind).reshape(-1, plane.line_size // np.dtype(kind).itemsize)
        views.append(lines[: plane.height, : plane.width])
    return views


def to_rgb(frame: Any, layout: Layout) -> Tensor:
    """The colours (3, H, W) float32 in [0, 1] of a frame in a working format, as it is stored."""
    planes = [torch.from_numpy(plane.astype(np.float32)) for plane in planes_of(frame)[:3]]
    top, low = _codes(layout)
    if layout.kind == "rgb":
        green, blue, red = planes
        return (torch.stack([red, green, blue]) / top).clamp_(0, 1)
    luma = (planes[0] - low[0]) / low[1]
    if layout.kind == "grey":
        return luma.clamp_(0, 1).expand(3, -1, -1).contiguous()
    chroma = torch.stack(planes[1:])[None]
    if chroma.shape[2:] != luma.shape:
        chroma = F.interpolate(chroma, luma.shape, mode="bilinear", align_corners=False)
    cb, cr = ((chroma[0] - low[2]) / low[3]).unbind()
    red = luma + 2 * (1 - layout.red) * cr
    blue = luma + 2 * (1 - layout.blue) * cb
    green = (luma - layout.red * red - layout.blue * blue) / (1 - layout.red - layout.blue)
    return torch.stack([red, green, blue]).clamp_(0, 1)


def _codes(layout: Layout) -> tuple[float, tuple[float, float, float, float]]:
    """The largest code; then offset and range of luma, middle and range of chroma."""
    top, unit = float(2**layout.bits - 1), float(2 ** (layout.bits - 8))
    middle = 128 * unit
    if layout.full:
        return top, (0.0, top, middle, top)
    return top, (16 * unit, 219 * unit, middle, 224 * unit)


def put(frame: Any, before: Tensor, after: Tensor, mask: Tensor, layout: Layout) -> None:
    """Write what was changed into a frame, which is in a working format and may be written.

    Args:
        frame: the frame.
        before: its colours (3, H, W), as :func:`to_rgb` gives them.
        after: the changed ones, turned as the frame is stored.
        mask: (1, H, W), 0 where nothing is to be written.
        layout: of the frame.
    """
    where = mask[0] > 0
    rows, columns = (torch.nonzero(where.any(axis)).flatten() for axis in (1, 0))
    if not len(rows):
        return
    planes = planes_of(frame)
    # chroma may belong to four rows and columns (yuv410p), so the box begins at such a one
    y, x = int(rows[0]) & ~3, int(columns[0]) & ~3
    height, width = int(rows[-1]) + 1 - y, int(columns[-1]) + 1 - x
    box = (slice(y, y + height), slice(x, x + width))
    delta = (after[:, box[0], box[1]] - before[:, box[0], box[1]]) * where[box]
    top, low = _codes(layout)
    if layout.kind == "rgb":
        red, green, blue = delta * top
        for plane, values in zip(planes, (green, blue, red), strict=False):
            _add(plane, box, values, top)
        return
    weights = torch.tensor([layout.red, 1 - layout.red - layout.blue, layout.blue])
    luma = (delta * weights[:, None, None]).sum(0)
    _add(planes[0], box, luma * low[1], top)
    if layout.kind == "grey":
        return
    across = -(-planes[0].shape[1] // planes[1].shape[1])
    down = -(-planes[0].shape[0] // planes[1].shape[0])
    inner = (
        slice(y // down, -(-(y + height) // down)),
        slice(x // across, -(-(x + width) // across)),
    )
    shares = ((planes[1], delta[2], layout.blue), (planes[2], delta[0], layout.red))
    for plane, colour, share in shares:
        chroma = ((colour - luma) / (2 * (1 - share)))[None, None]
        if (down, across) != (1, 1):
            chroma = F.avg_pool2d(chroma, (down, across), ceil_mode=True)
        _add(plane, inner, chroma[0, 0] * low[3], top)


def _add(plane: np.ndarray[Any, Any], box: Any, values: Tensor, top: float) -> None:
    part = plane[box]
    summed = part.astype(np.float32) + values.numpy()[: part.shape[0], : part.shape[1]]
    part[...] = np.clip(np.rint(summed), 0, top).astype(plane.dtype)


def fraction(text: str) -> Fraction | None:
    """Read a fraction; None where nothing is said."""
    return Fraction(text) if text else None
