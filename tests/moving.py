"""Clips that are made of photographs, so that it is known where each face is and whose it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from facke_core.faces.smooth import blurred
from facke_core.images.io import resize
from facke_core.video.frames import Frame


class Head(NamedTuple):
    """A head cut out of a photograph."""

    image: Tensor
    """Colours (3, h, w)."""
    alpha: Tensor
    """The share (1, h, w) of each pixel that is the head."""


def head(photo: Tensor, height: int) -> Head:
    """Cut the middle of a photograph (3, H, W) out along an ellipse."""
    width = round(height * photo.shape[2] / photo.shape[1])
    image = resize(photo[None], (height, width))[0]
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    alpha = blurred(((x.square() + y.square()) < 0.92).float()[None, None], 1.5)[0]
    return Head(image, alpha)


def put(frame: Tensor, one: Head, left: float, top: float) -> Tensor:
    """The frame with a head in it, whose corner need not be at a whole pixel."""
    x, y = math.floor(left), math.floor(top)
    layer = torch.cat([one.image * one.alpha, one.alpha])
    layer = torch.nn.functional.pad(layer, (1, 1, 1, 1))
    for axis, part in ((2, left - x), (1, top - y)):
        layer = torch.lerp(layer, layer.roll(1, axis), part)
    h, w = layer.shape[1:]
    y0, x0, height, width = y - 1, x - 1, *frame.shape[1:]
    rows, columns = slice(max(y0, 0), min(y0 + h, height)), slice(max(x0, 0), min(x0 + w, width))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return frame
    seen = layer[:, rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0]
    result = frame.clone()
    result[:, rows, columns] = result[:, rows, columns] * (1 - seen[3:]) + seen[:3]
    return result


def backdrop(height: int, width: int, seed: int = 0) -> Tensor:
    """A picture (3, height, width) of soft spots."""
    rng = torch.Generator().manual_seed(seed)
    return resize(torch.rand(1, 3, 5, 8, generator=rng) * 0.5 + 0.2, (height, width))[0]


def clip(frames: Sequence[Tensor], *, noise: float = 0.0, seed: int = 0) -> Iterator[Frame]:
    """Frames at 25 per second, with the noise of a sensor."""
    rng = torch.Generator().manual_seed(seed)
    for index, frame in enumerate(frames):
        image = frame + noise * torch.randn(frame.shape, generator=rng) if noise else frame
        yield Frame(index, index / 25, (image.clamp(0, 1) * 255).round() / 255)
