"""Measures the mean descriptor that dlib-resnet29 subtracts; writes identity/dlib_mean.json.

    ./dev python tools/measure_dlib_mean.py FACEPACK [--limit N]

FACEPACK is a folder of face crops with a ``manifest.csv`` that has the columns ``path``,
``identity``, ``mono`` and the five points (``eye_l_x`` ... ``mouth_r_y``) in pixels of the crop.
Only colour crops count: old grey prints have a mean of their own, which would leave strangers in
today's photographs a cosine of 0.22 instead of 0.10.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import torch
from torch import Tensor

from facke_core.faces.align import alignment_matrix, warp
from facke_core.identity.dlib_resnet import DlibResNet29, build, load_state

SIZE, TEMPLATE, BATCH = 224, "simswap_frontal", 32
NAMES = ("eye_l", "eye_r", "nose", "mouth_l", "mouth_r")


def crop(folder: Path, row: dict[str, str]) -> Tensor:
    """(1, 3, 224, 224): the face of one manifest row, aligned to the template."""
    import numpy as np
    from PIL import Image

    image = torch.from_numpy(np.array(Image.open(folder / row["path"]).convert("RGB")))
    image = image.permute(2, 0, 1)[None].float() / 255
    points = torch.tensor([[[float(row[f"{n}_x"]), float(row[f"{n}_y"])] for n in NAMES]])
    return warp(image, alignment_matrix(points, TEMPLATE, SIZE), SIZE, border="border")


@torch.inference_mode()
def descriptors(folder: Path, rows: list[dict[str, str]]) -> Tensor:
    """(N, 128) raw descriptors."""
    network = DlibResNet29().eval()
    network.load_state_dict(load_state())
    encoder = build(crop_template=TEMPLATE, centre=False)
    found = []
    for start in range(0, len(rows), BATCH):
        crops = torch.cat([crop(folder, row) for row in rows[start : start + BATCH]])
        found.append(network(encoder.chip(crops)))
    return torch.cat(found)


def cosines(x: Tensor, identities: list[str]) -> dict[str, float]:
    """Mean cosine of all pairs of different people and of all pairs of the same person."""
    x = torch.nn.functional.normalize(x, dim=1)
    number = {name: i for i, name in enumerate(dict.fromkeys(identities))}
    label = torch.tensor([number[name] for name in identities])
    cosine, same = x @ x.T, label[:, None] == label[None]
    pairs = torch.triu(torch.ones_like(same), 1).bool()
    return {
        "different": round(float(cosine[pairs & ~same].mean()), 4),
        "same": round(float(cosine[pairs & same].mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("facepack", type=Path)
    parser.add_argument("--limit", type=int, help="only the first N images of a fixed shuffle")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    with open(args.facepack / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["mono"] == "0"]
    if args.limit:
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        rows = [rows[i] for i in order[: args.limit].tolist()]
    raw = descriptors(args.facepack, rows)
    identities = [row["identity"] for row in rows]
    people: dict[str, list[Tensor]] = {}
    for name, vector in zip(identities, raw, strict=True):
        people.setdefault(name, []).append(vector)
    mean = torch.stack([torch.stack(vectors).mean(0) for vectors in people.values()]).mean(0)
    several = [i for i, name in enumerate(identities) if len(people[name]) > 1]
    report = {
        "made_by": "tools/measure_dlib_mean.py",
        "how": f"raw descriptors of {len(rows)} colour crops of {len(people)} people, aligned to "
        f"{TEMPLATE} at {SIZE} px: mean over each person's images, then over the people",
        "cosine_raw": cosines(raw[several], [identities[i] for i in several]),
        "cosine_centred": cosines((raw - mean)[several], [identities[i] for i in several]),
        "people_with_several_images": len({identities[i] for i in several}),
        "mean": [round(v, 7) for v in mean.tolist()],
    }
    out = args.out
    if out is None:
        import facke_core.identity

        out = Path(facke_core.identity.__file__).parent / "dlib_mean.json"
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print({key: value for key, value in report.items() if key != "mean"})


if __name__ == "__main__":
    main()
