"""How much of the source's identity arrives, and how much of the target's face moves.

    ./dev python benchmarks/identity_transfer.py --method simswap [cvae-gan ...] [--quick]

Every person of the London set (neutral faces, 60 people, 3,540 ordered pairs) is put on every
other, by the whole pipeline: detection, alignment, generation, paste-back. The results are judged
by a recogniser that no model of facke is conditioned on or trained with (``reid_0095``) and by the
judge's own face detector.

* ``gain``: mean cos(result, source) minus mean cos(target, source).
* ``top1``: share of results whose nearest of the 60 people is the source.
* ``landmark_shift``: mean distance of the five points from the target's, in percent of the
  target's eye distance.
* ``self_psnr``: PSNR in dB of swap(x, x) against x inside of the aligned crop, mean over people.

The pictures and the judge lie in ``$FACKE_SHARED`` (default: ``../shared`` beside the checkout).

For a network that is still in training, without weights on disk::

    from identity_transfer import Judge, london, measure
    judge = Judge(shared)
    people = london(shared, judge, encode=encoder, template="simswap_frontal", size=128)
    print(measure(lambda source, target, identity: generator(target, identity=identity).image,
                  people, judge, limit=180))
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # before cv2: it reports an unused setting
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: do not burn a busy machine

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from facke_core.faces.align import align, transform_points
from facke_core.faces.templates import Alignment
from facke_core.types import AlignedFace, Face

if TYPE_CHECKING:
    from facke_core.pipeline import SwapPipeline

PHOTO = 512
"""Side of the photographs in pixels; the originals have 1024."""
QUICK = 120
"""Pairs of ``--quick``."""
QUICK_SECONDS = 38
"""``--quick`` starts no further swap when it has run for so long, once the picture is complete."""
JUDGE = "reid_0095"

SwapCrops = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(source crops, target crops, identities) -> result crops, all (B, ...), crops in [0, 1]."""
Paste = Callable[[Tensor, Tensor, AlignedFace], Tensor]
"""(photo, crop, face) -> photo."""


@dataclass(frozen=True)
class Seen:
    """What the judge makes of a picture."""

    embedding: np.ndarray
    landmarks: np.ndarray | None
    """(5, 2) of the largest face, None where the detector finds none."""


class Judge:
    """The networks of ``$FACKE_SHARED/faces/judges.py``, several pictures at a time."""

    def __init__(self, shared: Path) -> None:
        import cv2

        path = shared / "faces" / "judges.py"
        spec = importlib.util.spec_from_file_location("judges", path)
        if spec is None or spec.loader is None:
            raise SystemExit(f"{path} is missing. Set FACKE_SHARED.")
        self._module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self._module)
        self._judges = self._module.Judges()
        cv2.setNumThreads(1)
        # these networks are so small that threads only get in each other's way
        self._pool = ThreadPoolExecutor(
            os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)
        )

    def find(self, image: np.ndarray) -> np.ndarray | None:
        """Five points (5, 2) of the largest face of an RGB image (H, W, 3) uint8."""
        faces = self._judges.detect(image)
        return faces[0]["landmarks"].astype(np.float64) if faces else None

    def look(
        self, pictures: Sequence[Callable[[], np.ndarray]], fallback: Sequence[np.ndarray | None]
    ) -> list[Seen]:
        """Judge pictures, which are made by calls that run beside each other.

        ``fallback`` are the points to use for the embedding where no face is found.
        """

        @torch.inference_mode()
        def one(make: Callable[[], np.ndarray], points: np.ndarray | None) -> Seen:
            image = make()
            found = self.find(image)
            where = points if found is None else found
            if where is None:
                raise SystemExit("The judge finds no face in a photo of the set.")
            return Seen(self._judges.embed(JUDGE, image, where), found)

        return list(self._pool.map(one, pictures, fallback))


@dataclass(frozen=True)
class Person:
    """One person of the set, prepared for being source and target."""

    name: str
    photo: Tensor
    """(3, 512, 512) in [0, 1]."""
    face: AlignedFace
    identity: Tensor
    """(D,): the embedding that conditions the generator."""
    seen: Seen = field(repr=False)
    """The judge's view of the untouched picture."""


def to_uint8(image: Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] as (H, W, 3) uint8."""
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def framed(crop: Tensor) -> np.ndarray:
    """A crop with a margin around it, so that the detector sees a face in a picture."""
    side = crop.shape[-1]
    size = max(side, 128)
    crop = F.interpolate(crop[None].float(), (size, size), mode="bilinear", align_corners=False)
    return to_uint8(F.pad(crop, [size // 4] * 4, mode="replicate")[0])


def photos(shared: Path, limit: int | None = None) -> list[tuple[str, Tensor]]:
    """(identity, photo (3, 512, 512)) of the neutral London faces, in order of the manifest."""
    from facke_core.images.io import read_image

    with open(shared / "faces" / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["group"] == "london" and row["path"].endswith("/neutral.jpg")
        ]
    found = []
    for row in rows[:limit]:
        image = read_image(shared / "faces" / row["path"]).image[None]
        image = F.interpolate(image, (PHOTO, PHOTO), mode="bilinear", antialias=True)
        found.append((row["identity"], image[0].clamp(0, 1)))
    return found


def _people(
    judge: Judge,
    named: list[tuple[str, Tensor]],
    faces: list[AlignedFace],
    identities: Tensor,
    crops: bool,
) -> list[Person]:
    views = [
        (lambda f=face: framed(f.crop)) if crops else (lambda p=photo: to_uint8(p))
        for (_, photo), face in zip(named, faces, strict=True)
    ]
    seen = judge.look(views, [_points(face, crops) for face in faces])
    return [
        Person(name, photo, face, identity, view)
        for (name, photo), face, identity, view in zip(named, faces, identities, seen, strict=True)
    ]


def _points(face: AlignedFace, crops: bool) -> np.ndarray:
    """Where the five points are in the picture that the judge sees."""
    points = face.face.landmarks.double()
    if crops:
        side = face.crop.shape[-1]
        size = max(side, 128)
        points = transform_points(face.matrix[None].double(), points[None])[0]
        points = (points + 0.5) * size / side - 0.5 + size // 4
    return points.numpy()


@torch.inference_mode()
def london(
    shared: Path,
    judge: Judge,
    *,
    encode: Callable[[Tensor], Tensor],
    template: str = "simswap_frontal",
    size: int = 128,
    limit: int | None = None,
) -> list[Person]:
    """The people as crops of ``template``, found by the judge's detector, for bare generators.

    ``encode`` maps crops (B, 3, size, size) to identities (B, D).
    """
    named = photos(shared, limit)
    alignment = Alignment(template=template, size=size)
    faces = []
    for name, photo in named:
        points = judge.find(to_uint8(photo))
        if points is None:
            raise SystemExit(f"The judge finds no face in the photo of {name}.")
        box = torch.tensor([*points.min(0), *points.max(0)]).float()
        face = Face(box, torch.from_numpy(points).float(), 1.0)
        faces.append(align(photo, face, alignment))
    return _people(judge, named, faces, encode(torch.stack([f.crop for f in faces])), crops=True)


@torch.inference_mode()
def people_of(
    pipeline: SwapPipeline, shared: Path, judge: Judge, *, crops: bool, limit: int | None = None
) -> list[Person]:
    """The people as ``pipeline`` detects, aligns and encodes them."""
    named = photos(shared, limit)
    faces = [pipeline.align(photo, pipeline.detect(photo)[0]) for _, photo in named]
    identities = [pipeline.encode(face.crop[None])[0] for face in faces]
    return _people(judge, named, faces, torch.stack(identities), crops)


def order(n: int, matrix: int) -> list[tuple[int, int]]:
    """All ordered pairs (source, target) of n people: the picture's first, then shuffled."""
    rows = range(min(matrix, n // 2))
    first = [(i, n - 1 - j) for i in rows for j in rows]
    rest = [(i, j) for i in range(n) for j in range(n) if i != j and (i, j) not in set(first)]
    shuffled = torch.randperm(len(rest), generator=torch.Generator().manual_seed(0)).tolist()
    return first + [rest[k] for k in shuffled]


@torch.inference_mode()
def measure(
    swap_crops: SwapCrops,
    people: Sequence[Person],
    judge: Judge,
    *,
    paste: Paste | None = None,
    limit: int | None = None,
    seconds: float | None = None,
    batch_size: int = 8,
    matrix: int = 0,
    self_swaps: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Swap pairs and judge the results.

    Args:
        swap_crops: the generator or the pipeline's ``swap_crops``.
        people: from :func:`london` (judged as crops) or :func:`people_of`.
        judge: what measures.
        paste: puts a crop back into the photo; None: the crops are judged, with a margin.
        limit: number of pairs, from a fixed shuffle; None: all.
        seconds: stop after this time (the pairs of the matrix are finished); None: never.
        batch_size: crops per call of ``swap_crops``.
        matrix: results of the first ``matrix`` sources and targets are returned as pictures.
        self_swaps: also swap people with themselves; otherwise ``self_psnr`` is None.
        progress: called with (pairs done, pairs in all).

    Returns:
        ``gain``, ``top1``, ``landmark_shift``, ``self_psnr``, ``pairs``, ``undetected`` (share of
        results without a face), and the parts of the gain: ``result_source``, ``target_source``,
        ``result_target``. ``shown``: (source, target) -> picture (3, H, W) of the matrix.
    """
    started = time.monotonic()
    reference = np.stack([p.seen.embedding for p in people])
    pairs = order(len(people), matrix)[:limit]
    keep = set(order(len(people), matrix)[: min(matrix, len(people) // 2) ** 2])
    result_source, target_source, result_target, shifts, hits = [], [], [], [], []
    shown: dict[tuple[int, int], Tensor] = {}
    undetected = done = 0
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        if seconds and start >= len(keep) and time.monotonic() - started > seconds:
            break
        crops = _swap(swap_crops, [people[i] for i, _ in batch], [people[j] for _, j in batch])

        def picture(k: int, batch: Any = batch, crops: Tensor = crops) -> np.ndarray:
            person = people[batch[k][1]]
            result = crops[k] if paste is None else paste(person.photo, crops[k], person.face)
            if batch[k] in keep:
                shown[batch[k]] = result.cpu()
            return framed(result) if paste is None else to_uint8(result)

        views = [lambda k=k: picture(k) for k in range(len(batch))]
        seen = judge.look(views, [_target_points(people[j], paste is None) for _, j in batch])
        for (i, j), view in zip(batch, seen, strict=True):
            cosines = reference @ view.embedding
            result_source.append(cosines[i])
            result_target.append(cosines[j])
            target_source.append(reference[j] @ reference[i])
            hits.append(int(cosines.argmax()) == i)
            before = people[j].seen.landmarks
            if view.landmarks is None:
                undetected += 1
            elif before is not None:
                eyes = np.linalg.norm(before[1] - before[0])
                shift = np.linalg.norm(view.landmarks - before, axis=1).mean()
                shifts.append(100 * shift / eyes)
        done += len(batch)
        if progress:
            progress(done, len(pairs))
    own = people if seconds is None else people[:: max(1, len(people) // 20)]
    report = {
        "gain": float(np.mean(result_source) - np.mean(target_source)),
        "top1": float(np.mean(hits)),
        "landmark_shift": float(np.mean(shifts)) if shifts else None,
        "self_psnr": _self_psnr(swap_crops, own, batch_size) if self_swaps else None,
        "pairs": done,
        "undetected": undetected / done,
        "result_source": float(np.mean(result_source)),
        "target_source": float(np.mean(target_source)),
        "result_target": float(np.mean(result_target)),
    }
    rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in report.items()}
    return rounded | {"shown": shown}


def _target_points(person: Person, crops: bool) -> np.ndarray:
    return _points(person.face, crops) if person.seen.landmarks is None else person.seen.landmarks


def _swap(swap_crops: SwapCrops, sources: Sequence[Person], targets: Sequence[Person]) -> Tensor:
    return (
        swap_crops(
            torch.stack([p.face.crop for p in sources]),
            torch.stack([p.face.crop for p in targets]),
            torch.stack([p.identity for p in sources]),
        )
        .clamp(0, 1)
        .float()
        .cpu()
    )


def _self_psnr(swap_crops: SwapCrops, people: Sequence[Person], batch_size: int) -> float:
    """Mean PSNR of swap(x, x) against x in dB; identical crops count as 100."""
    values = []
    for start in range(0, len(people), batch_size):
        some = people[start : start + batch_size]
        error = _swap(swap_crops, some, some) - torch.stack([p.face.crop for p in some]).cpu()
        mse = error.square().mean((1, 2, 3)).clamp(min=1e-10)
        values.append(-10 * mse.log10())
    return float(torch.cat(values).mean())


def draw(people: Sequence[Person], shown: dict[tuple[int, int], Tensor], crops: bool) -> Tensor:
    """The face matrix of the pictures that :func:`measure` kept."""
    from facke_core.images.grid import face_matrix

    own = [person.face.crop if crops else person.photo for person in people]
    sources, targets = sorted({i for i, _ in shown}), sorted({j for _, j in shown})
    return face_matrix(
        [own[i] for i in sources],
        [own[j] for j in targets],
        [[shown.get((i, j)) for j in targets] for i in sources],
        size=224,
        source_labels=[people[i].name.rpartition("/")[2] for i in sources],
        target_labels=[people[j].name.rpartition("/")[2] for j in targets],
    )


def judged(name: str, args: argparse.Namespace, shared: Path, judge: Judge) -> dict[str, Any]:
    """What the benchmark says of one method or of one set of weights; draws its picture."""
    import facke_core
    from facke_core.images.io import write_image
    from facke_core.images.provenance import disclosure
    from facke_core.types import SwapRequest

    started = time.monotonic()
    pipeline = facke_core.load(name, device=args.device)
    people = people_of(pipeline, shared, judge, crops=args.crops)
    left = max(1.0, QUICK_SECONDS - (time.monotonic() - started))
    report = measure(
        lambda source, target, identity: pipeline.swap_crops(
            source, target, identity=identity, rng=torch.Generator().manual_seed(0)
        ),
        people,
        judge,
        paste=None if args.crops else pipeline.paste,
        limit=args.pairs or (QUICK if args.quick else None),
        seconds=left if args.quick else None,
        batch_size=args.batch_size,
        matrix=3 if args.quick else 6,
        progress=_progress if sys.stderr.isatty() else None,
    )
    source = pipeline.source
    request = SwapRequest(
        method=source.config.method if source else name,
        weights=source.weights if source else "",
        revision=source.revision if source else "",
        seed=0,
    )
    picture = args.picture or Path(f"identity_transfer-{request.method}.png")
    matrix = draw(people, report.pop("shown"), args.crops)
    write_image(picture, matrix, xmp=disclosure(request), overwrite=True)
    return report | {
        "judge": JUDGE,
        "picture": str(picture),
        "method": request.method,
        "weights": request.weights,
        "revision": request.revision,
        "judged": "crops" if args.crops else "photos",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", nargs="+", default=["simswap"], help="registered methods")
    parser.add_argument("--weights", help="a tag of the method, hf:org/repo, or ./folder")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--crops", action="store_true", help="judge the crops, before pasting")
    parser.add_argument("--quick", action="store_true", help="a fixed selection, within 50 s")
    parser.add_argument("--pairs", type=int, help="the first of a fixed shuffle; default: all")
    parser.add_argument("--json", type=Path, help="write the figures here; a list for several")
    parser.add_argument("--picture", type=Path, help="default: identity_transfer-METHOD.png")
    args = parser.parse_args()
    if len(args.method) > 1 and (args.weights or args.picture):
        parser.error("--weights and --picture belong to one method")
    shared = Path(os.environ.get("FACKE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (shared / "faces" / "judges.py").is_file():
        sys.exit(f"The judges and the London set are not in {shared}/faces. Set FACKE_SHARED.")

    names = args.method
    if args.weights:
        path_like = args.weights.startswith(("hf:", ".", "/"))
        names = [args.weights if path_like else f"{names[0]}.{args.weights}"]
    judge = Judge(shared)
    reports = [judged(name, args, shared, judge) for name in names]
    for key in reports[0]:
        print(f"{key:15}", *(f"{report[key]!s:28}" for report in reports))
    if args.json:
        content = reports if len(reports) > 1 else reports[0]
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _progress(done: int, total: int) -> None:
    print(f"\r{done}/{total} pairs", end="" if done < total else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
