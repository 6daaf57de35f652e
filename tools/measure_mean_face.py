"""Measures the mean shape of faces; writes evaluation/mean_face.json.

    ./dev python tools/measure_mean_face.py PHOTO...

PHOTO are portraits with a neutral expression, looking into the camera. Each face's mesh, with
MediaPipe's estimate of the depth, is moved, turned and scaled onto the mean of all, and the mean is
made symmetric. Only the points of ``facke_core.data.mesh.POINTS`` are kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from facke_core.data.mesh import MIRROR, POINTS
from facke_core.faces import detect
from facke_core.faces.boxes import square
from facke_core.faces.graphs import MESH
from facke_core.images.io import read_image

ROUNDS = 5
IRISES = [POINTS.index(468), POINTS.index(473)]
Points = np.ndarray[Any, Any]


def meshes(photos: list[Path]) -> list[Points]:
    """(P, 3) of the largest face of each photo, in pixels; y down, z away from the camera."""
    finder = detect.build_mediapipe()
    found = []
    for path in photos:
        photo = read_image(path).image
        faces = finder(photo)
        if not faces:
            continue
        pixels = photo.mul(255).byte().permute(1, 2, 0).numpy()
        crop, _, _, _ = square(pixels, faces[0].box, 2.0)
        results = finder._graphs.run(MESH, crop, finder).multi_face_landmarks
        if results:
            points = np.array([(p.x, p.y, p.z) for p in results[0].landmark])
            found.append(points[list(POINTS)] * len(crop))
    return found


def onto(points: Points, goal: Points) -> Points:
    """The points, moved, turned and scaled to lie on ``goal`` (Umeyama 1991)."""
    p, g = points - points.mean(0), goal - goal.mean(0)
    u, s, vt = np.linalg.svd(g.T @ p)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = (s * np.diag(sign)).sum() / (p * p).sum()
    turned: Points = scale * p @ (u @ sign @ vt).T
    return turned


def upright(points: Points) -> Points:
    """Symmetric, centred between the irises, which are one unit apart."""
    mirrored = points[list(MIRROR)] * [-1, 1, 1]
    mean = (points - points.mean(0) + onto(mirrored, points)) / 2
    mean = (mean + mean[list(MIRROR)] * [-1, 1, 1]) / 2
    mean -= mean[IRISES].mean(0)
    result: Points = mean / np.linalg.norm(mean[IRISES[1]] - mean[IRISES[0]])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO")
    args = parser.parse_args()
    shapes = meshes(args.photos)
    mean = upright(shapes[0])
    for _ in range(ROUNDS):
        mean = upright(np.mean([onto(shape, mean) for shape in shapes], axis=0))
    about = {
        "made_by": "tools/measure_mean_face.py",
        "how": f"MediaPipe's mesh of {len(shapes)} faces, aligned to each other and symmetric; "
        "x right, y down, z away from the camera; unit: distance of the irises; order: "
        "facke_core.data.mesh.POINTS",
        "points": [[round(float(v), 4) + 0.0 for v in point] for point in mean],
    }
    file = Path(__file__).resolve().parent.parent / "packages/facke-core/src/facke_core/evaluation"
    text = json.dumps(about).replace("], [", "],\n[").replace('", "', '",\n"')
    (file / "mean_face.json").write_text(f"{text}\n", encoding="utf-8")
    print(f"{len(shapes)} of {len(args.photos)} photographs")


if __name__ == "__main__":
    main()
