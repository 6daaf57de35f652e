"""The face matrix of the papers: sources down the left, targets along the top, results inside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from facke_core.errors import UsageError

__all__ = ["face_matrix", "picture_grid"]

GAP = 4
"""White pixels between cells."""


def face_matrix(
    sources: Sequence[Tensor | None],
    targets: Sequence[Tensor | None],
    cells: Sequence[Sequence[Tensor | None]],
    *,
    size: int = 192,
    source_labels: Sequence[str] = (),
    target_labels: Sequence[str] = (),
) -> Tensor:
    """Draw one picture of all results, with the sources on the left and the targets on top.

    Args:
        sources: pictures (3, H, W) in [0, 1] of any sizes, one per row; None leaves the place
            white.
        targets: likewise, one per column.
        cells: ``cells[i][j]`` is source i on target j; None leaves the place white.
        size: side of a cell in pixels; pictures are fitted into it, keeping their proportions.
        source_labels: text on the sources, drawn with Pillow; empty: none.
        target_labels: likewise.

    Returns:
        (3, H, W) float32 in [0, 1].

    Raises:
        UsageError: the numbers of sources, targets, cells and labels do not agree.
    """
    if len(cells) != len(sources) or any(len(row) != len(targets) for row in cells):
        raise UsageError(
            f"A face matrix of {len(sources)} sources and {len(targets)} targets needs "
            f"{len(sources)} rows of {len(targets)} cells; got rows of "
            f"{[len(row) for row in cells]}."
        )
    for labels, pictures, what in (
        (source_labels, sources, "source"),
        (target_labels, targets, "target"),
    ):
        if labels and len(labels) != len(pictures):
            raise UsageError(
                f"{len(labels)} {what}_labels for {len(pictures)} {what}s. Give one each, or none."
            )
    white = torch.ones(3, size, size)
    top, left = (
        [
            labelled(white if picture is None else _fit(picture, size), text)
            for picture, text in zip(pictures, labels or [""] * len(pictures), strict=True)
        ]
        for pictures, labels in ((targets, target_labels), (sources, source_labels))
    )
    rows = [[None, *top], *([face, *row] for face, row in zip(left, cells, strict=True))]
    return picture_grid(rows, size=size)


def picture_grid(
    rows: Sequence[Sequence[Tensor | None]], *, size: int = 192, labels: Sequence[str] = ()
) -> Tensor:
    """Draw pictures in rows and columns.

    Args:
        rows: pictures (3, H, W) in [0, 1] of any sizes, as many in every row; None leaves the
            place white.
        size: side of a cell in pixels; pictures are fitted into it, keeping their proportions.
        labels: text on the pictures of the first row, drawn with Pillow; empty: none.

    Returns:
        (3, H, W) float32 in [0, 1].

    Raises:
        UsageError: rows of different lengths, or another number of labels.
    """
    lengths = {len(row) for row in rows} | ({len(labels)} if labels else set())
    if len(lengths) != 1:
        raise UsageError(
            f"A grid needs rows and labels of one length; got rows of {[len(r) for r in rows]} "
            f"and {len(labels)} labels."
        )
    step = size + GAP
    canvas = torch.ones(3, len(rows) * step - GAP, len(rows[0]) * step - GAP)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            if picture is None:
                continue
            cell = labelled(_fit(picture, size), labels[j] if labels and i == 0 else "")
            canvas[:, i * step : i * step + size, j * step : j * step + size] = cell
    return canvas


def _fit(picture: Tensor, size: int) -> Tensor:
    """The picture (3, size, size), scaled to fit and centred on white."""
    picture = picture.detach().float().cpu()
    height, width = picture.shape[-2:]
    scale = size / max(height, width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    small = F.interpolate(picture[None], (h, w), mode="bilinear", antialias=True)[0].clamp(0, 1)
    top, left = (size - h) // 2, (size - w) // 2
    return F.pad(small, (left, size - w - left, top, size - h - top), value=1.0)


def labelled(picture: Tensor, text: str) -> Tensor:
    """The picture with ``text`` in white on a dark strip along its lower edge."""
    if not text:
        return picture
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    size = picture.shape[-1]
    strip = Image.new("RGB", (size, max(10, size // 10)), (32, 32, 32))
    font = ImageFont.load_default(strip.height * 0.8)
    ImageDraw.Draw(strip).text((3, strip.height // 2), text, (255, 255, 255), font, anchor="lm")
    drawn = torch.from_numpy(np.array(strip)).permute(2, 0, 1).float() / 255
    return torch.cat([picture[:, : size - strip.height], drawn], 1)
