"""Make the picture of docs/concepts.md: what goes from stage to stage when one face is swapped.

    ./dev python tools/make_pipeline_picture.py [--method simswap] [--output FILE.jpg]

Everything in it is what the stages of the pipeline returned for the two sample portraits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from facke_cli.samples import sample_or_path
from facke_core import Face, load
from facke_core.faces.paste import face_mask
from facke_core.images.io import read_image, to_pil, write_image
from facke_core.images.provenance import disclosure

CELL, GAP, DOWN, TOP, UNDER = 230, 150, 84, 6, 60
"""Side of a picture, room for an arrow to the right and one down, margin, room for two lines."""
TEXT = 25
INK, FRAME = (38, 50, 86), (255, 196, 0)


class Drawing:
    """A white sheet with cells in columns and rows."""

    def __init__(self, columns: int, rows: int) -> None:
        width = columns * CELL + (columns - 1) * GAP + 2 * TOP
        self.sheet = Image.new(
            "RGB", (width, rows * (CELL + UNDER + DOWN) - DOWN + 2 * TOP), "white"
        )
        self.draw = ImageDraw.Draw(self.sheet)

    def corner(self, column: float, row: float) -> tuple[int, int]:
        """The upper left corner of a cell."""
        return TOP + round(column * (CELL + GAP)), TOP + round(row * (CELL + UNDER + DOWN))

    def cell(self, column: int, row: int, picture: Image.Image, *lines: str) -> None:
        """A picture, fitted into its cell, with one or two lines under it."""
        x, y = self.corner(column, row)
        scale = CELL / max(picture.size)
        width, height = (round(scale * side) for side in picture.size)
        small = picture.resize((width, height), Image.Resampling.BICUBIC)
        self.sheet.paste(small, (x + (CELL - small.width) // 2, y + (CELL - small.height) // 2))
        for i, line in enumerate(lines):
            self.text((x + CELL // 2, y + CELL + 18 + 28 * i), line)

    def arrow(self, start: tuple[int, int], end: tuple[int, int], label: str = "") -> None:
        """Straight, along one axis; the label stands above it, or right of it."""
        (x0, y0), (x1, y1) = start, end
        self.draw.line([start, end], INK, 4)
        down = x0 == x1
        wings = [(-8, -14), (8, -14)] if down else [(-14, -8), (-14, 8)]
        self.draw.polygon([end, *((x1 + dx, y1 + dy) for dx, dy in wings)], INK)
        middle = ((x0 + x1) // 2, (y0 + y1) // 2)
        where = (middle[0] + 14, middle[1]) if down else (middle[0], middle[1] - 24)
        self.text(where, label, anchor="lm" if down else "mm")

    def right(self, column: int, row: int, label: str = "") -> None:
        """An arrow from a cell to the next one."""
        x, y = self.corner(column, row)
        self.arrow((x + CELL + 8, y + CELL // 2), (x + CELL + GAP - 8, y + CELL // 2), label)

    def down(self, column: int, label: str = "") -> None:
        """An arrow from a cell of the first row to the one below it."""
        x, y = self.corner(column, 0)
        end = self.corner(column, 1)[1] - 8
        self.arrow((x + CELL // 2, y + CELL + UNDER + 8), (x + CELL // 2, end), label)

    def text(self, at: tuple[int, int], text: str, anchor: str = "mm") -> None:
        self.draw.text(at, text, INK, ImageFont.load_default(TEXT), anchor=anchor)


def marked(photo: Tensor, face: Face) -> Image.Image:
    """The photo with what the detector found: box and five landmarks."""
    picture = to_pil(photo)
    draw = ImageDraw.Draw(picture)
    unit = max(picture.size) / CELL
    draw.rectangle(face.box.tolist(), outline=FRAME, width=round(2 * unit))
    for x, y in face.landmarks.tolist():
        draw.ellipse([x - 2 * unit, y - 2 * unit, x + 2 * unit, y + 2 * unit], FRAME)
    return picture


def coloured(identity: Tensor) -> Image.Image:
    """The numbers of an identity as a grid: blue below zero, red above."""
    values = (identity / identity.abs().amax()).view(8, -1).numpy()
    strength = np.abs(values)[..., None]
    hue = np.where(values[..., None] < 0, np.array([40, 80, 200]), np.array([200, 50, 40]))
    colours = (255 * (1 - strength) + hue * strength).astype(np.uint8)
    return Image.fromarray(colours).resize((CELL, CELL // 2), Image.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="simswap")
    parser.add_argument("--output", type=Path, default=Path("docs/images/pipeline.jpg"))
    args = parser.parse_args()

    swapper = load(args.method)
    photos = [read_image(sample_or_path(f"sample:{name}")).image for name in ("collins", "hopper")]
    faces = [swapper.detect(photo)[0] for photo in photos]
    source, target = (swapper.align(p, f) for p, f in zip(photos, faces, strict=True))
    identity = swapper.encode(source.crop[None])
    crop = swapper.swap_crops(source.crop[None], target.crop[None], identity=identity)[0]
    mask = face_mask(target)
    result = swapper.paste(photos[1], crop, target).image

    sheet = Drawing(4, 2)
    pixels = f"{crop.shape[-1]} x {crop.shape[-1]}"
    sheet.cell(0, 0, marked(photos[0], faces[0]), "source photo", "1 detect")
    sheet.cell(1, 0, to_pil(source.crop), "source crop", pixels)
    sheet.cell(2, 0, coloured(identity[0]), "identity", f"{identity.shape[1]} numbers")
    sheet.cell(3, 0, to_pil(mask.expand(3, -1, -1)), "mask", "of the target's face")
    sheet.cell(0, 1, marked(photos[1], faces[1]), "target photo", "1 detect")
    sheet.cell(1, 1, to_pil(target.crop), "target crop", pixels)
    sheet.cell(2, 1, to_pil(crop), "result crop", pixels)
    sheet.cell(3, 1, to_pil(result), "result")
    for column, row, label in (
        (0, 0, "2 align"),
        (1, 0, "3 encode"),
        (0, 1, "2 align"),
        (1, 1, "4 generate"),
        (2, 1, "5 paste"),
    ):
        sheet.right(column, row, label)
    sheet.down(2)
    sheet.down(3)

    picture = torch.from_numpy(np.array(sheet.sheet)).permute(2, 0, 1).float() / 255
    request = swapper(*photos, seed=0).request
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_image(args.output, picture, None, xmp=disclosure(request), overwrite=True)
    print(f"{args.output}: {args.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
