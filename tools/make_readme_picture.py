"""Make the picture of the README: the two samples, each with the other's identity.

    ./dev python tools/make_readme_picture.py [--method fuse] [--output docs/images/swap.jpg]

Rows are sources, columns are targets.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from facke_cli.samples import sample_or_path
from facke_core import load
from facke_core.faces.align import align
from facke_core.faces.templates import Alignment
from facke_core.images.grid import face_matrix
from facke_core.images.io import read_image, write_image
from facke_core.images.provenance import disclosure

SIZE = 208


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="fuse")
    parser.add_argument("--output", type=Path, default=Path("docs/images/swap.jpg"))
    args = parser.parse_args()

    swapper = load(args.method)
    photos = [read_image(sample_or_path(f"sample:{name}")).image for name in ("collins", "hopper")]
    frame = Alignment(template="ffhq", size=SIZE)
    faces = [swapper.detect(photo)[0] for photo in photos]
    heads = [align(photo, face, frame).crop for photo, face in zip(photos, faces, strict=True)]
    cells = []
    for source in photos:
        results = [swapper(source, target, seed=0) for target in photos]
        request = results[0].request
        cells.append(
            [align(r.image, face, frame).crop for r, face in zip(results, faces, strict=True)]
        )
    picture = face_matrix(heads, heads, cells, size=SIZE)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_image(args.output, picture, None, xmp=disclosure(request), overwrite=True)
    print(f"{args.output}: {args.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
