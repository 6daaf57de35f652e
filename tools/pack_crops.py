"""Make a crop set for ``facke train`` out of a folder of photographs, one subfolder per person.

    python tools/pack_crops.py PHOTOS DATASET [--manifest manifest.csv] [--size 128]

PHOTOS/PERSON/*.jpg, or the rows of a manifest with the columns ``path`` and ``identity`` (and
``mono``, 1 for pictures without colours, which are drawn less often; ``licence`` and ``source``,
which are counted into ``dataset.json``). The largest face of each picture is taken; pictures
without one, or with a face too small or turned too far, are skipped and counted.
"""

from __future__ import annotations

import argparse
import collections
import csv
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from facke_core import load_encoder
from facke_core.data.crops import CropSet
from facke_core.data.images import read_image
from facke_core.data.mesh import OVAL_RING, POINTS
from facke_core.errors import FackeError, NoFaceError
from facke_core.faces.align import Alignment, align, transform_points
from facke_core.faces.detect import make_detector

MIN_EYE_DISTANCE = 18
"""Pixels in the photograph; below, a crop would be mostly interpolation."""
MAX_TURN = 0.38
"""Nose tip off the middle of the eyes, in eye distances: about 50 degrees of yaw."""
COLOUR_WEIGHT = 3.0


def rows_of(photos: Path, manifest: Path | None) -> list[dict[str, str]]:
    if manifest:
        with manifest.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    pictures = sorted(p for p in photos.glob("*/*") if p.is_file())
    return [{"path": str(p.relative_to(photos)), "identity": p.parent.name} for p in pictures]


def oval(points: torch.Tensor, size: int) -> torch.Tensor:
    """(1, size, size) uint8: the face oval, antialiased."""
    mask = Image.new("L", (4 * size, 4 * size))
    ring = ((points[list(OVAL_RING)] + 0.5) * 4).tolist()
    ImageDraw.Draw(mask).polygon([(x, y) for x, y in ring], fill=255)
    pixels = bytearray(mask.reduce(4).tobytes())
    return torch.frombuffer(pixels, dtype=torch.uint8).view(1, size, size).clone()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--template", default="simswap_frontal")
    parser.add_argument("--encoder", default="dlib-resnet29")
    parser.add_argument("--name", default="")
    args = parser.parse_args()

    alignment = Alignment(template=args.template, size=args.size)
    detector = make_detector("mediapipe")
    encoder = load_encoder(args.encoder)
    columns: dict[str, list[torch.Tensor]] = collections.defaultdict(list)
    people: dict[str, int] = {}
    paths: list[str] = []
    skipped: collections.Counter[str] = collections.Counter()
    sources: collections.Counter[str] = collections.Counter()
    rows = rows_of(args.photos, args.manifest)
    for number, row in enumerate(rows, 1):
        try:
            photo = read_image(args.photos / row["path"]).image
            faces = detector(photo)
            if not faces:
                raise NoFaceError("no face")
        except FackeError as error:
            skipped[type(error).__name__] += 1
            continue
        face = faces[0]
        assert face.mesh is not None
        eyes = face.landmarks[1] - face.landmarks[0]
        distance = float(eyes.norm())
        along = ((face.landmarks[2] - face.landmarks[:2].mean(0)) * eyes).sum() / distance**2
        if distance < MIN_EYE_DISTANCE or abs(float(along)) > MAX_TURN:
            skipped["small or turned"] += 1
            continue
        aligned = align(photo, face, alignment)
        mesh = transform_points(aligned.matrix[None], face.mesh[None])[0]
        crop = aligned.crop.clamp(0, 1)
        with torch.inference_mode():
            embeddings = encoder(torch.stack([crop, crop.flip(-1)]))
        columns["images"].append((crop * 255).round().byte())
        columns["masks"].append(oval(mesh, args.size))
        columns["points"].append(mesh[list(POINTS)].float())
        columns["embeddings"].append(embeddings)
        columns["people"].append(torch.tensor(people.setdefault(row["identity"], len(people))))
        mono = row.get("mono") == "1"
        columns["weights"].append(torch.tensor(1.0 if mono else COLOUR_WEIGHT))
        paths.append(row["path"])
        sources[f"{row.get('source', '')} {row.get('licence', '')}".strip()] += 1
        if number % 500 == 0:
            print(f"{number}/{len(rows)}", file=sys.stderr, flush=True)

    info = {
        "name": args.name or args.photos.name,
        "identity_encoder": {"name": args.encoder},
        "alignment": {"template": args.template, "size": args.size},
        "colour_weight": COLOUR_WEIGHT,
        "skipped": dict(skipped),
        "sources": dict(sources),
        "paths": paths,
    }
    crops = CropSet(info=info, **{name: torch.stack(values) for name, values in columns.items()})
    crops.save(args.dataset)
    print(f"{len(crops)} crops of {len(people)} people; skipped: {dict(skipped) or 'none'}")


if __name__ == "__main__":
    main()
