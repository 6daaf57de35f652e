"""Measures the mean shape of faces and its triangles; writes faces/face_mesh.json.

    ./dev python tools/measure_face_mesh.py PHOTO...

PHOTO are portraits with a neutral expression, looking into the camera. Each face's mesh, with
MediaPipe's estimate of the depth, is moved, turned and scaled onto the mean of all by the points of
``facke_core.faces.mesh.POINTS``, and the mean is made symmetric. The triangles are those of
MediaPipe's tesselation, closed at eyes and mouth.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from mediapipe.python.solutions.face_mesh_connections import FACEMESH_TESSELATION
from scipy.optimize import linear_sum_assignment

from facke_core.faces import detect
from facke_core.faces.boxes import square
from facke_core.faces.graphs import MESH
from facke_core.faces.mesh import EYE_RINGS, MIRROR, MOUTH_RING, POINTS
from facke_core.images.io import read_image

ROUNDS = 5
KNOWN = list(POINTS)
Points = np.ndarray[Any, Any]


def meshes(photos: list[Path]) -> list[Points]:
    """(478, 3) of the largest face of each photo, in pixels; y down, z away from the camera."""
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
            found.append(points * len(crop))
    return found


def onto(points: Points, known: Points, goal: Points) -> Points:
    """The points, moved, turned and scaled so that ``known`` of them lie on ``goal`` (Umeyama
    1991); the goal's centre becomes the origin."""
    p, g = known - known.mean(0), goal - goal.mean(0)
    u, s, vt = np.linalg.svd(g.T @ p)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = (s * np.diag(sign)).sum() / (p * p).sum()
    turned: Points = scale * (points - known.mean(0)) @ (u @ sign @ vt).T
    return turned


def mirror_of(mean: Points) -> list[int]:
    """The number of the point that takes the place of each in a mirrored face."""
    flipped = mean * [-1, 1, 1]
    moved = onto(flipped, flipped[KNOWN], mean[[KNOWN[i] for i in MIRROR]])
    distance = np.linalg.norm(moved[:, None] - (mean - mean[KNOWN].mean(0))[None], axis=-1)
    mirror: list[int] = linear_sum_assignment(distance)[1].tolist()
    assert all(mirror[mirror[i]] == i for i in range(len(mirror)))
    assert [mirror[point] for point in KNOWN] == [KNOWN[i] for i in MIRROR]
    return mirror


def upright(points: Points, mirror: list[int]) -> Points:
    """Symmetric, centred between the irises, which are one unit apart."""
    flipped = points[mirror] * [-1, 1, 1]
    mean = (points - points[KNOWN].mean(0) + onto(flipped, flipped[KNOWN], points[KNOWN])) / 2
    mean = (mean + mean[mirror] * [-1, 1, 1]) / 2
    mean -= mean[[468, 473]].mean(0)
    result: Points = mean / np.linalg.norm(mean[473] - mean[468])
    return result


def triangles(mean: Points) -> list[list[int]]:
    """Corners of all triangles, seen from outside; clockwise in a picture of a face that looks into
    the camera, unless they are turned away."""
    edges = {(min(a, b), max(a, b)) for a, b in FACEMESH_TESSELATION}
    near: dict[int, set[int]] = {}
    for a, b in edges:
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    corners = {tuple(sorted((a, b, c))) for a, b in edges for c in near[a] & near[b]}
    corners -= {(49, 64, 129), (279, 294, 358)}  # edges of three others, no triangles
    for ring in (*EYE_RINGS, MOUTH_RING):
        half = len(ring) // 2
        above, below = ring[: half + 1], (ring[0], *ring[: half - 1 : -1])
        for (a, b), (c, d) in zip(pairwise(above), pairwise(below), strict=True):
            corners |= {t for t in ((a, b, d), (a, d, c)) if len(set(t)) == 3}
    turned = []
    for a, b, c in sorted(corners):
        (x1, y1), (x2, y2) = mean[b, :2] - mean[a, :2], mean[c, :2] - mean[a, :2]
        turned.append([a, b, c] if x1 * y2 > x2 * y1 else [a, c, b])
    # beside the nostrils the mean face has two that are turned away, unlike all around them
    runs = Counter(edge for corners in turned for edge in _edges(corners))
    return [t[::-1] if all(runs[edge] > 1 for edge in _edges(t)) else t for t in turned]


def _edges(corners: list[int]) -> list[tuple[int, int]]:
    a, b, c = corners
    return [(a, b), (b, c), (c, a)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO")
    args = parser.parse_args()
    shapes = meshes(args.photos)
    mean = shapes[0]
    mirror = mirror_of(np.mean([onto(s, s[KNOWN], mean[KNOWN]) for s in shapes], axis=0))
    mean = upright(mean, mirror)
    for _ in range(ROUNDS):
        moved = [onto(shape, shape[KNOWN], mean[KNOWN]) for shape in shapes]
        mean = upright(np.mean(moved, axis=0), mirror)
    about = {
        "made_by": "tools/measure_face_mesh.py",
        "how": f"MediaPipe's mesh of {len(shapes)} faces, aligned to each other and symmetric; "
        "x right, y down, z away from the camera; unit: distance of the irises",
        "points": [[round(float(v), 4) + 0.0 for v in point] for point in mean],
        "mirror": mirror,
        "triangles": triangles(mean),
    }
    file = Path(__file__).resolve().parent.parent / "packages/facke-core/src/facke_core/faces"
    text = json.dumps(about).replace("], [", "],\n[").replace('", "', '",\n"')
    (file / "face_mesh.json").write_text(f"{text}\n", encoding="utf-8")
    print(f"{len(shapes)} of {len(args.photos)} photographs")


if __name__ == "__main__":
    main()
