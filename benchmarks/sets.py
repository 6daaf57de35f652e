"""The benchmark sets: pairs of the pictures of ``$FACKE_SHARED`` on which methods are compared.

    ./dev python benchmarks/sets.py SETS [--dataset DATASET] [--quick] [--json FILE]

Writes CSVs for ``facke evaluate run --pairs`` into SETS, with the columns ``source``, ``target``,
``source_identity``, ``target_identity`` and ``reference``, another photograph of the source. They
are the same in every run. No picture is copied: SETS gets a link to them.

* ``L-L.csv``: 180 pairs of the London set, neutral on neutral: each of 60 people on three others.
* ``L-S.csv``: 60, neutral on smiling.
* ``L-C.csv``: 60, London on colour portraits of Congress.
* ``W-local-only.csv``: 60, in the wild (LFW). Never publish its pictures or results that show them.
* ``Y.csv``: 60, London on heads that are turned by 20 to 45 degrees.
* ``G.csv``: 40, London on glasses: 20 synthetic portraits and 20 of Congress.
* ``eye.csv``: 24 to be looked at (benchmarks/sheets.py), in this order: 6 of London with dark and
  light skin on each other, 4 smiling, 3 of Congress, 4 turned by 20 to 45 degrees, 4 with glasses,
  3 in half light.

``people.txt`` names everybody in the sets, with "_" for "/": who trains weights that are measured
here leaves them out. ``--dataset`` looks for them among the people of a dataset of
``facke prepare`` under other names as well: those with a picture whose cosine with one of theirs,
by the dataset's own encoder, is at least 0.75, are added, and a few strangers with them.
``--quick`` writes into a temporary folder where no SETS is named, and looks for 5 people only. The
JSON has ``sets``, a folder, ``pairs`` by file, and ``people``.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from common import Row, arguments, link, linked, manifest, neutral, require, scratch, write_figures

from facke_core.data.tables import csv_text

COLUMNS = ("source", "target", "source_identity", "target_identity", "reference")
LOOKALIKE = 0.75
GLASSES = [
    "B000382",
    "B000657",
    "B001252",
    "B001279",
    "C000116",
    "C000537",
    "C000705",
    "C001082",
    "D000432",
    "H000948",
    "H001052",
    "H001064",
    "L000579",
    "M000355",
    "M000590",
    "M000844",
    "M001137",
    "O000085",
    "R000395",
    "S001143",
]
"""Members of Congress who wear glasses on the first of their pictures."""
EYE = (
    ("L002", "london/L025 neutral"),
    ("L137", "london/L068 neutral"),
    ("L096", "london/L043 neutral"),
    ("L126", "london/L013 neutral"),
    ("L030", "london/L066 neutral"),
    ("L026", "london/L012 neutral"),
    ("L081", "london/L124 smiling"),
    ("L045", "london/L143 smiling"),
    ("L129", "london/L127 smiling"),
    ("L021", "london/L172 smiling"),
    ("L004", "congress/N000181"),
    ("L025", "congress/L000480"),
    ("L092", "congress/W000207"),
    ("L112", "sfhq_t2i/2_Accessories_r0c05"),
    ("L070", "sfhq_t2i/2_Facial_Hair_r0c02"),
    ("L043", "sfhq_t2i/2_Hats_r4c02"),
    ("L087", "sfhq_t2i/2_Jewelry_r1c08"),
    ("L130", "sfhq_t2i/2_Glasses_Style_r1c09"),
    ("L006", "sfhq_t2i/1_glasses_r0c00"),
    ("L137", "congress/C000537"),
    ("L125", "congress/H000948"),
    ("L134", "sfhq_t2i/2_Lighting_r4c03"),
    ("L018", "sfhq_t2i/2_Lighting_r3c06"),
    ("L105", "sfhq_t2i/2_Lighting_r4c01"),
)
"""Person of the London set, and the target: who, and which of several pictures."""

Pairs = list[tuple[Row, Row, Row]]
"""Source, target, and another picture of the source."""


def sets(rows: Sequence[Row]) -> dict[str, Pairs]:
    """File -> its pairs."""
    shown: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        shown[row["identity"]].append(row)
    faces = neutral(rows)
    smiling = {
        row["identity"]: row for row in rows if row["path"].endswith("/smiling.jpg")
    }  # fmt: skip
    colour = [r for r in rows if r["cls"] == "open" and r["gray"] == "0" and r["n_faces"] == "1"]
    congress = _firsts([r for r in colour if "vv_wiki" not in r["path"]], "congress")
    drawn = _firsts(colour, "sfhq_t2i")
    turned = [
        row
        for group in ("sfhq_t2i", "sfhq", "congress")
        for row in _firsts(colour, group)
        if 20 <= abs(float(row["yaw"])) <= 45
    ]
    glasses = [r for r in drawn if "glasses" in r["identity"].lower() and abs(float(r["yaw"])) < 20]
    spectacled = [row for row in congress if row["identity"].removeprefix("congress/") in GLASSES]

    def put(name: str, targets: Sequence[Row], n: int) -> Pairs:
        """The London set on n of some targets."""
        rng = random.Random(name)
        chosen = rng.sample(list(targets), n)
        sources = rng.sample(faces, len(faces))
        sources = [*sources, *sources][:n]
        return [(a, b, smiling[a["identity"]]) for a, b in zip(sources, chosen, strict=True)]

    return {
        "L-L.csv": _shifted("L-L", faces, faces, smiling, (1, 2, 3)),
        "L-S.csv": _shifted("L-S", faces, list(smiling.values()), smiling, (1,)),
        "L-C.csv": put("L-C", congress, 60),
        "W-local-only.csv": _wild([row for row in rows if row["group"] == "lfw10"]),
        "Y.csv": put("Y", turned, 60),
        "G.csv": [*put("G1", glasses, 20), *put("G2", spectacled, 20)],
        "eye.csv": [
            (shown[f"london/{who}"][0], _named(shown, target), smiling[f"london/{who}"])
            for who, target in EYE
        ],
    }


def _firsts(rows: Iterable[Row], group: str) -> list[Row]:
    """The first picture of each person of a group."""
    first: dict[str, Row] = {}
    for row in rows:
        if row["group"] == group:
            first.setdefault(row["identity"], row)
    return list(first.values())


def _shifted(
    name: str,
    sources: Sequence[Row],
    targets: Sequence[Row],
    references: dict[str, Row],
    steps: Sequence[int],
) -> Pairs:
    """Everybody on the next ones of a ring in random order, so that each is as often a target."""
    by_name = {row["identity"]: row for row in targets}
    ring = random.Random(name).sample(list(sources), len(sources))
    return [
        (source, by_name[ring[(i + k) % len(ring)]["identity"]], references[source["identity"]])
        for k in steps
        for i, source in enumerate(ring)
    ]


def _wild(rows: Sequence[Row], n: int = 60) -> Pairs:
    """Each picture in turn on one of somebody else, with the next picture of its person."""
    by_person: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_person[row["identity"]].append(row)
    rng, pairs = random.Random("W"), []
    for row in rng.sample(list(rows), n):
        own = by_person[row["identity"]]
        reference = own[(own.index(row) + 1) % len(own)]
        others = [other for other in rows if other["identity"] != row["identity"]]
        pairs.append((row, rng.choice(others), reference))
    return pairs


def _named(shown: dict[str, list[Row]], target: str) -> Row:
    who, _, which = target.partition(" ")
    return next(row for row in shown[who] if row["path"].endswith(f"{which}.jpg"))


def write(folder: Path, name: str, pairs: Pairs) -> Path:
    """Write a CSV into a folder, with the link to the pictures beside it."""
    link(folder)
    lines = [(linked(a), linked(b), a["identity"], b["identity"], linked(c)) for a, b, c in pairs]
    (folder / name).write_text(csv_text(COLUMNS, lines), encoding="utf-8", newline="")
    return folder / name


def people(pairs: Iterable[Pairs]) -> list[str]:
    """Everybody in the sets, by the names that datasets have for them."""
    return sorted({row["identity"].replace("/", "_") for s in pairs for pair in s for row in pair})


def lookalikes(data: Path, pictures: Sequence[Path]) -> list[str]:
    """The people of a dataset who look like somebody on some pictures."""
    import torch

    from facke_core import load_encoder
    from facke_core.data.crops import CropSet
    from facke_core.faces.align import align
    from facke_core.faces.detect import build_mediapipe
    from facke_core.faces.templates import Alignment
    from facke_core.images.io import read_image

    torch.set_num_threads(1)  # more only wait for each other, as one crop is small
    crops = CropSet.load(data)
    known = torch.nn.functional.normalize(crops.embeddings.float().mean(1), dim=-1)
    encoder = load_encoder(crops.info["identity_encoder"])
    detect, alignment = build_mediapipe(), Alignment(**crops.info["alignment"])
    found: set[str] = set()
    for picture in pictures:
        photo = read_image(picture).image
        if faces := detect(photo):
            crop = align(photo, faces[0], alignment).crop[None]
            with torch.inference_mode():
                vector = encoder(crop) + encoder(crop.flip(-1))
            near = known @ torch.nn.functional.normalize(vector[0], dim=0) >= LOOKALIKE
            found |= {crops.info["people"][who] for who in crops.people[near].tolist()}
    return sorted(found)


def main() -> None:
    parser = arguments(__doc__, quick="5 people are looked for")
    parser.add_argument("sets", type=Path, nargs="?", help="a folder; needed without --quick")
    parser.add_argument("--dataset", type=Path, help="look for the people in it")
    args = parser.parse_args()
    if args.sets is None and not args.quick:
        parser.error("name the folder SETS, or give --quick")
    require("manifest.csv")
    folder = args.sets or scratch("sets")
    made = sets(manifest())
    for name, pairs in made.items():
        write(folder, name, pairs)
    names = people(made.values())
    if args.dataset:
        used = sorted({linked(row) for s in made.values() for pair in s for row in pair})
        pictures = [folder / name for name in used][: 5 if args.quick else None]
        names = sorted({*names, *lookalikes(args.dataset, pictures)})
    (folder / "people.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    counts = {name: len(pairs) for name, pairs in made.items()}
    print(*(f"{folder / name}: {n} pairs" for name, n in counts.items()), sep="\n")
    print(f"{folder / 'people.txt'}: {len(names)} people")
    write_figures(args.json, {"sets": str(folder), "pairs": counts, "people": len(names)})


if __name__ == "__main__":
    main()
