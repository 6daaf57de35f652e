"""The figures of the paper, Fig. 4 to 7, from pictures of ``$FACKE_SHARED`` and our own weights.

    ./dev python benchmarks/gallery.py GALLERY [--methods simswap cvae-gan] [--figures 4 5 6 7]
                                               [--rows 5] [--seed N] [--set KEY=VALUE ...]
                                               [--quick] [--json FILE]

Writes pictures and a page, ``GALLERY/index.html`` and the same as ``README.md``. Each picture is
made by one ``facke matrix``, which the page shows: run in GALLERY it makes the same picture again.
``--quick`` makes figures of one row, in a temporary folder where no GALLERY is named. The JSON has
``gallery`` and ``figures``: ``figure``, ``file``, ``pairs``, ``command``, ``seconds``.

* ``4``: faces x methods, neutral faces of the London set.
* ``5``: targets with accessories: glasses, hats, jewelry.
* ``6``: targets whose heads are turned by ``--yaw`` degrees or more.
* ``7``: targets with expressions.

Sources are faces of the London set. Targets of 5, 6 and 7 are synthetic portraits (SFHQ-T2I),
chosen by the manifest's groups and angles. The choice is random and the same in every run;
``--choice N`` takes another. Default: every method with bundled weights.

The pictures show other people's work and faces: GALLERY is not for the repository, whose own
page, docs/gallery.md, has the two public-domain portraits of facke-cli.
"""

from __future__ import annotations

import html
import os
import random
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # before cv2: it reports an unused setting
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: do not burn a busy machine

from common import (
    Row,
    arguments,
    bundled,
    link,
    linked,
    manifest,
    neutral,
    require,
    scratch,
    write_figures,
)

from facke_cli.main import main as facke
from facke_core import default_registry

ACCESSORIES = re.compile("accessories|glasses|hats|jewelry", re.I)
EXPRESSIONS = re.compile("expression", re.I)
TITLES = {
    "4": "Faces and methods",
    "5": "Accessories",
    "6": "Postures",
    "7": "Expressions",
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One picture of the gallery."""

    number: str
    pairs: Sequence[tuple[Row, Row]]
    """(source, target): rows of the manifest."""

    @property
    def file(self) -> str:
        return f"figure-{self.number}.jpg"

    def credits(self) -> str:
        """Group, licence and number of the pictures."""
        shown = {row["path"]: (row["group"], row["licence"]) for pair in self.pairs for row in pair}
        counts = sorted(Counter(shown.values()).items())
        return ", ".join(f"{n} of {group} ({licence})" for (group, licence), n in counts)

    def words(self, options: Sequence[str]) -> list[str]:
        """Of ``facke matrix``."""
        sources, targets = (list(map(linked, side)) for side in zip(*self.pairs, strict=True))
        return ["matrix", "--sources", *sources, "--targets", *targets, *options]


def showable() -> list[Row]:
    """Single faces, in colour, that may be shown."""
    rows = manifest()
    return [r for r in rows if r["cls"] == "open" and r["n_faces"] == "1" and r["gray"] == "0"]


def figures(
    rows: Sequence[Row], numbers: Sequence[str], count: int, yaw: float, choice: int = 0
) -> list[Figure]:
    """The figures, with ``count`` pairs each."""
    faces = neutral(rows)
    drawn = [r for r in rows if r["group"] == "sfhq_t2i"]
    upright = [r for r in drawn if abs(float(r["yaw"])) < yaw]
    targets = {
        "4": faces,
        "5": [r for r in upright if ACCESSORIES.search(r["identity"])],
        "6": [r for r in drawn if abs(float(r["yaw"])) >= yaw],
        "7": [r for r in upright if EXPRESSIONS.search(r["identity"])],
    }
    made = []
    for number in numbers:
        rng = random.Random(f"{number} {choice}")
        chosen = rng.sample(targets[number], min(count, len(targets[number]), len(faces) // 2))
        if number == "6":
            chosen.sort(key=lambda row: float(row["yaw"]))
        taken = {row["identity"] for row in chosen}
        sources = rng.sample([r for r in faces if r["identity"] not in taken], len(chosen))
        made.append(Figure(number=number, pairs=list(zip(sources, chosen, strict=True))))
    return made


def page_html(made: Sequence[tuple[Figure, str]]) -> str:
    """One page, whose pictures lie beside it."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>facke: gallery</title>",
        "<style>body{font:16px sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
        "img{max-width:100%}pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#eee;"
        "padding:.6rem}</style><h1>Gallery</h1>",
        f"<p>{html.escape(INTRODUCTION)}</p>",
    ]
    for figure, command in made:
        title = f"{TITLES[figure.number]} (Fig. {figure.number})"
        parts += [
            f"<h2>{title}</h2><img src={figure.file} alt='{title}'>",
            f"<p>Pictures: {html.escape(figure.credits())}</p><pre>{html.escape(command)}</pre>",
        ]
    return "\n".join(parts) + "\n"


def page_markdown(made: Sequence[tuple[Figure, str]]) -> str:
    """The same as Markdown."""
    parts = [f"# Gallery\n\n{INTRODUCTION}\n"]
    for figure, command in made:
        title = f"{TITLES[figure.number]} (Fig. {figure.number})"
        parts.append(
            f"## {title}\n\n![{title}]({figure.file})\n\nPictures: {figure.credits()}\n\n"
            f"```text\n{command}\n```\n"
        )
    return "\n".join(parts)


INTRODUCTION = (
    "Each row is a pair: the source, the target, and the target with the source's face by each "
    "method. All faces in the columns of methods are synthetic. Below each picture is the command "
    "that made it, to be run in this folder."
)


def main() -> None:
    parser = arguments(__doc__, quick="figures of one row")
    parser.add_argument("gallery", type=Path, nargs="?", help="a folder; needed without --quick")
    parser.add_argument("--methods", nargs="+", help="default: those with bundled weights")
    parser.add_argument("--weights", nargs="+", help="instead: METHOD.TAG, hf:org/repo or /folder")
    parser.add_argument("--figures", nargs="+", choices=TITLES, default=list(TITLES))
    parser.add_argument("--rows", type=int, help="default: 5")
    parser.add_argument("--yaw", type=float, default=25.0, help="degrees, of Fig. 6")
    parser.add_argument("--choice", type=int, default=0, help="another choice of pictures")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--seed", type=int, help="of methods that draw")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if args.gallery is None and not args.quick:
        parser.error("name the folder GALLERY, or give --quick")
    require("manifest.csv")
    folder = args.gallery or scratch("gallery")
    count = args.rows or (1 if args.quick else 5)
    methods = args.methods or bundled(default_registry())
    columns = ["--weights", *args.weights] if args.weights else ["--methods", *methods]
    options = [*columns, "--size", str(args.size)]
    options += ["--device", args.device] if args.device != "auto" else []
    options += ["--seed", str(args.seed)] if args.seed is not None else []
    options += ["--set", *args.set] if args.set else []
    link(folder)
    made, rows = [], []
    for figure in figures(showable(), args.figures, count, args.yaw, args.choice):
        words, started = figure.words([*options, "--force", "-o", figure.file]), time.monotonic()
        with chdir(folder):
            if code := facke(words):
                sys.exit(code)
        made.append((figure, shlex.join(["facke", *words])))
        rows.append(
            {
                "figure": figure.number,
                "file": figure.file,
                "pairs": len(figure.pairs),
                "command": made[-1][1],
                "seconds": round(time.monotonic() - started, 2),
            }
        )
    for name, page in (("index.html", page_html(made)), ("README.md", page_markdown(made))):
        (folder / name).write_text(page, encoding="utf-8")
    print(folder / "index.html")
    write_figures(args.json, {"gallery": str(folder), "figures": rows})


if __name__ == "__main__":
    main()
