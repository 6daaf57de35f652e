"""The faces of a picture, drawn with their numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from facke_core.images.io import read_image, to_pil
from facke_core.types import Face

__all__: list[str] = []

LINE = (255, 210, 0)
DOUBTFUL = (255, 70, 40)


def numbered_faces(photo: Tensor, faces: Sequence[Face]) -> Tensor:
    """The photo (3, H, W) in [0, 1] with a frame around each face that is turned as the head is,
    open at the chin, and the number at which :class:`~facke_core.pipeline.SwapPipeline` finds it.
    Doubtful faces are red."""
    from PIL import ImageDraw, ImageFont

    image = to_pil(photo)
    draw = ImageDraw.Draw(image)
    for number, face in enumerate(faces, 1):
        colour = DOUBTFUL if face.doubts else LINE
        corners = _frame(face)
        side = math.dist(corners[1], corners[2])
        draw.line(corners, colour, max(2, round(side / 40)), joint="curve")
        font = ImageFont.load_default(min(max(14.0, side / 4), max(14.0, min(image.size) / 6)))
        text, (x, y) = str(number), corners[1]
        left, top, right, bottom = draw.textbbox((0, 0), text, font)
        width, height = right - left + 8, bottom - top + 8
        x = min(max(x, 0), image.width - width)
        y = min(max(y - height, 0), image.height - height)
        draw.rectangle((x, y, x + width, y + height), colour)
        draw.text((x + 4 - left, y + 4 - top), text, (0, 0, 0), font)
    return read_image(image).image


def _frame(face: Face) -> list[tuple[float, float]]:
    """Corners at the chin, the forehead, the forehead and the chin, in the axes of the head."""
    points = face.landmarks if face.mesh is None else face.mesh
    angle = math.radians(face.angle)
    right = torch.tensor([math.cos(angle), math.sin(angle)])
    down = torch.tensor([-right[1], right[0]])
    across, along = points @ right, points @ down
    margin = (across.max() - across.min()) * (0.05 if face.mesh is not None else 0.5)
    x0, x1 = across.min() - margin, across.max() + margin
    y0, y1 = along.min() - margin, along.max() + margin
    places = ((x0, y1), (x0, y0), (x1, y0), (x1, y1))
    return [tuple((x * right + y * down).tolist()) for x, y in places]
