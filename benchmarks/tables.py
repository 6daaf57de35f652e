"""Tables 1, 2 and 3 of Facke's paper from our own trainings.

    ./dev python benchmarks/tables.py RUNS --data CROPS [CROPS ...] [--table 1 2 3] [--only ROW ...]
                                      [--small] [--steps N] [--device cuda] [--quick] [--json FILE]

CROPS are datasets of ``facke prepare``. The long form trains the recipes as they are, on a GPU, and
needs crops of 224 and of 256 pixels (``--size``). The short form, ``--small --steps N``, trains
small networks on crops of any one size, on a CPU. ``--print`` only says what would be trained.
``--quick`` trains tiny networks for two rows on noise, in temporary folders where none are named.

* ``1``: SimSwap, CVAE, SimSwap-IG, CVAE-GAN-IG, ILVR (with the DDPM that is not fine-tuned).
* ``2``: SimSwap with feature matching w, o, n and w-bar, with and without Identity Grouping.
* ``3``: ILVR with the pretrained DDPM, and fine-tuned at four learning rates. The pretrained one is
  trained here too (recipe ``ddpm-256``), or given: ``--pretrained REF``.

Each training is a ``facke train`` into a folder of RUNS, shared by the tables. What is finished is
not trained again, what was interrupted goes on; measurements are kept in RUNS/measured. Of runs
with probes the best checkpoint is measured, otherwise the last one.

CROPS should not show people of the London set, because its crops are measured, or those of another
dataset, ``--panel``; by ``facke_core.evaluation``, with the judge of reid.py (both are in
``$FACKE_SHARED``). The tables have true means, and the same by the arithmetic of the paper's
benchmark (``facke evaluate --protocol facke2022``). Beside them stand the paper's printed values
and, times 32, the means that they are (docs/reproduction.md).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: do not burn a busy machine

from common import arguments as common_arguments
from common import require, shared, write_figures
from noise import noise_set
from reid import NAME, registry
from table_rows import BATCH, COLUMNS, PRETRAINED, TABLES, Row, sampler, small

from facke_cli.console import progress
from facke_core import FackeError, Registry
from facke_core.config import read_json, to_dict, write_json
from facke_core.data.crops import UNFINISHED
from facke_core.data.info import INFO
from facke_core.training.folder import RECIPE
from facke_core.training.recipe import Recipe, read_recipe
from facke_core.weights.checkpoints import complete
from facke_core.weights.checkpoints import name as checkpoint
from facke_core.weights.sources import locate

ENCODER = "dlib-resnet29"
"""Of the ID Loss, for models without an identity encoder; all recipes have this one."""
METRICS = ("recon-l1", "id-loss", "id-retrieval")
QUICK = {
    "only": ["simswap-224", PRETRAINED],
    "small": True,
    "steps": 2,
    "set": ["batch_size=2"],
    "pairs": 4,
}
"""What ``--quick`` takes where nothing else is asked for."""
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one row is trained."""

    row: Row
    recipe: Recipe
    overrides: tuple[str, ...]
    folder: Path
    data: Path

    @property
    def size(self) -> int:
        return int(self.recipe.alignment["size"])

    @property
    def finished(self) -> bool:
        there = complete(self.folder) if self.folder.is_dir() else []
        return bool(there) and there[-1].name == checkpoint(self.recipe.steps)

    @property
    def weights(self) -> Path:
        """The best checkpoint, where probes chose one, else the run, which is its last."""
        best = self.folder / "best.json"
        return self.folder / read_json(best)["checkpoint"] if best.is_file() else self.folder

    def check(self) -> None:
        """Raises SystemExit where the folder holds another training; a longer one may go on."""
        file = self.folder / RECIPE
        if not file.is_file():
            return
        there, wanted = read_json(file), json.loads(json.dumps(to_dict(self.recipe)))
        changed = sorted(k for k in wanted if k != "steps" and wanted[k] != there.get(k))
        if changed:
            sys.exit(
                f"{self.folder} was trained with other settings ({', '.join(changed)}). Take "
                "another folder for RUNS, or the same options."
            )

    def command(self, begin: str, device: str) -> list[str]:
        """``facke train``, from the beginning or from where it was."""
        words = ["train", self.row.recipe, "--data", str(self.data), "--out", str(self.folder)]
        there = self.folder.is_dir() and bool(complete(self.folder))
        words += ["--resume"] if there else ["--init", begin] if begin else []
        words += ["--device", device]
        return [*words, *(word for one in self.overrides for word in ("--set", one))]


def datasets(folders: Sequence[Path]) -> dict[int, Path]:
    """Size of the crops -> dataset."""
    found = {}
    for folder in folders:
        train = folder / "train" / INFO
        about = train if train.is_file() else folder / INFO
        found[int(read_json(about)["alignment"]["size"])] = folder
    return found


def plan(row: Row, args: argparse.Namespace, names: Registry) -> Plan:
    """Raises SystemExit where no dataset has the crops that the recipe needs."""
    have = datasets(args.data)
    overrides = small(row.recipe, next(iter(have))) if args.small else ()
    overrides += (f"optimizer.lr={row.lr}",) if row.lr else ()
    overrides += (f"steps={args.steps}",) if args.steps else ()
    overrides += tuple(args.set)
    recipe = read_recipe(row.recipe, overrides, names)
    size = int(recipe.alignment["size"])
    if size not in have:
        sys.exit(
            f"The recipe {row.recipe} needs crops of {size} pixels; --data has {sorted(have)}. "
            f"Make some: facke prepare PHOTOS crops-{size} --size {size}, or train --small."
        )
    return Plan(
        row=row,
        recipe=recipe,
        overrides=overrides,
        folder=args.runs / row.run,
        data=have[size],
    )


def chosen(tables: Sequence[str], only: Sequence[str]) -> dict[str, list[Row]]:
    """Table -> rows; raises SystemExit for rows that do not exist."""
    wanted = {name.lower() for name in only}
    rows = {
        table: [
            row
            for row in TABLES[table]
            if not wanted or wanted & {row.name.lower(), row.run.lower()}
        ]
        for table in tables
    }
    known = {name for table in tables for row in TABLES[table] for name in (row.name, row.run)}
    if unknown := wanted - {name.lower() for name in known}:
        sys.exit(f"No such rows: {', '.join(sorted(unknown))}. Rows: {', '.join(sorted(known))}.")
    return {table: some for table, some in rows.items() if some}


def train(one: Plan, args: argparse.Namespace, names: Registry) -> None:
    """Train a row, or finish it; first what it begins with."""
    one.check()
    if one.finished or (args.pretrained and one.row.run == PRETRAINED):
        return
    begin = ""
    if one.row.begin:
        known = {row.run: row for rows in TABLES.values() for row in rows}
        first = plan(known[one.row.begin], args, names)
        train(first, args, names)
        begin = args.pretrained or str(first.weights.resolve())
    words = one.command(begin, args.device)
    one.folder.parent.mkdir(parents=True, exist_ok=True)
    log = one.folder.parent / f"{one.row.run}.txt"
    print(f"{one.row.run}: training, see {log}", file=sys.stderr, flush=True)
    facke = str(Path(sys.executable).with_name("facke"))
    with log.open("a", encoding="utf-8") as stream:
        done = subprocess.run([facke, *words], stdout=stream, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"{shlex.join(['facke', *words])} ended with {done.returncode}; see {log}.")


def panel(size: int, args: argparse.Namespace) -> Path:
    """The crops that are swapped."""
    if args.panel:
        have = datasets(args.panel)
        if size not in have:
            sys.exit(f"--panel has crops of {sorted(have)} pixels, and {size} are needed.")
        return have[size]
    folder: Path = args.runs / f"london-{size}"
    if (folder / INFO).is_file() and not (folder / UNFINISHED).exists():
        return folder
    photos = shared() / "faces" / "images" / "open" / "london"
    words = ["prepare", str(photos), str(folder), "--size", str(size), "--name", "london"]
    facke = str(Path(sys.executable).with_name("facke"))
    if subprocess.run([facke, *words, "--license", "CC-BY-4.0", "--quiet"]).returncode:
        sys.exit(f"The London set could not be prepared: {shlex.join(['facke', *words])}")
    return folder


def measure(one: Plan, args: argparse.Namespace, names: Registry) -> dict[str, Any]:
    """The three values of a row, as means and as published; kept in RUNS/measured."""
    from facke_core.evaluation.runner import EvaluationSpec
    from facke_core.evaluation.study import evaluate, evaluate_facke2022

    given = args.pretrained if one.row.run == PRETRAINED else ""
    weights = given or str(one.weights.resolve())
    spec = EvaluationSpec(
        weights=weights,
        data=str(panel(one.size, args)),
        limit=args.pairs,
        judge=NAME,
        encoder=ENCODER,
        metrics=METRICS,
        sampler=sampler(one.recipe, args.small),
        seed=SEED,
        device=args.device,
    )
    key = {
        "weights": locate(weights, registry=names).revision,
        "pairs": spec.pair_set().digest,
        "sampler": dict(spec.sampler),
    }
    file = args.runs / "measured" / f"{one.row.run}.json"
    if file.is_file() and (known := read_json(file))["key"] == key:
        return dict(known["values"])
    with progress() as show:
        (report,) = evaluate([spec], registry=registry, on_progress=show)
        (old,) = evaluate_facke2022([spec], registry=registry, on_progress=show)
    values = {
        "pairs": old.images,
        "mean": dict(zip(COLUMNS, (report.summary[name].value for name in METRICS), strict=True)),
        "as_published": dict(old.as_published),
        "as_published_mean": dict(old.mean),
        "notes": list(old.notes),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"key": key, "values": values})
    return values


def entry(one: Plan, values: Mapping[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """A row of the JSON."""
    paper = dict(zip(COLUMNS, one.row.paper, strict=True))
    given = bool(args.pretrained) and one.row.run == PRETRAINED
    return {
        "row": one.row.name,
        "recipe": one.row.recipe,
        "run": one.row.run,
        "steps": None if given else one.recipe.steps,
        "images": None if given else one.recipe.steps * one.recipe.batch_size,
        **values,
        "paper": paper,
        "paper_mean": dict(zip(COLUMNS, one.row.paper_mean, strict=True)),
    }


SCALES = (
    ("mean", "ours, mean, [0, 1]"),
    ("as_published", "ours, facke2022"),
    ("paper", "paper, as printed"),
    ("as_published_mean", "ours, facke2022, mean"),
    ("paper_mean", f"paper, x {BATCH}"),
)
"""Key -> what it is; the second and third, and the last two, can be compared."""


def table(number: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """In the layout of the paper, with a line for each scale."""
    lines = [f"Table {number}", "", f"| model | scale | {' | '.join(COLUMNS)} |"]
    lines.append("|" + " --- |" * (2 + len(COLUMNS)))
    for row in rows:
        name = row["row"]
        for key, scale in SCALES:
            lines.append(f"| {name} | {scale} | {' | '.join(_values(row[key]))} |")
            name = ""
    return "\n".join(lines)


def _values(values: Mapping[str, float | None]) -> list[str]:
    shown = (values[name] for name in COLUMNS)
    return ["-" if v is None or math.isnan(v) else f"{v:.3f}" for v in shown]


SHORT_TEXT = (
    "A short training. It shows that every row can be trained, resumed and measured by one "
    "command, and little else: the paper's models saw 2,217,022 images (the DDPM 1,108,511 on top "
    "of its pretraining), these {images}. It cannot show the order of the rows. What one feature "
    "matching, Identity Grouping or a learning rate changes is smaller here than what another seed "
    "changes, adversarial terms have hardly begun to act, and a DDPM that has seen this little "
    "makes no faces."
)
LONG_TEXT = (
    "The recipes as they are. Values do not compare with the paper's: encoder, judge, pictures and "
    "pairs are others, all rows have the same pairs of different people, and one training of each "
    "says nothing about the spread over seeds. Compare the differences between rows."
)


def caveat(rows: Sequence[Mapping[str, Any]], args: argparse.Namespace) -> str:
    """What the tables can and cannot show."""
    if not (args.small or args.steps):
        return LONG_TEXT
    counts = sorted({row["images"] for row in rows if row["images"]})
    return SHORT_TEXT.format(images=" or ".join(f"{n:,}" for n in counts) or "none")


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = common_arguments(__doc__, quick="two rows, tiny networks, noise")
    parser.add_argument("runs", type=Path, nargs="?", help="a folder; needed without --quick")
    parser.add_argument("--data", type=Path, nargs="+", help="datasets; needed without --quick")
    parser.add_argument("--table", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="names or recipes")
    parser.add_argument("--small", action="store_true", help="small networks, for a CPU")
    parser.add_argument("--steps", type=int, help="of every training; default: the recipe's")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of all recipes")
    parser.add_argument("--pretrained", metavar="REF", help="weights of the DDPM of Table 3")
    parser.add_argument("--panel", type=Path, nargs="+", help="swapped crops; default: London")
    parser.add_argument("--pairs", type=int, help="a multiple of 32; default: 3520")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--print", action="store_true", help="the commands, and nothing else")
    args = parser.parse_args(words)
    if not args.quick and not (args.runs and args.data):
        parser.error("name RUNS and --data CROPS, or give --quick")
    for name, value in QUICK.items() if args.quick else ():
        setattr(args, name, getattr(args, name) or value)
    args.pairs = args.pairs or 3520
    return args


def main() -> None:
    args = arguments()
    if not args.print:
        require("judges.py", "manifest.csv")
    with tempfile.TemporaryDirectory() as folder:
        args.runs = args.runs or Path(folder) / "runs"
        if not args.data:
            args.data = [noise_set(Path(folder) / "noise")]
            args.panel = args.panel or args.data
        report(args)


def report(args: argparse.Namespace) -> None:
    """Train and measure what was asked for."""
    names = registry()
    try:
        tables = {
            number: [plan(row, args, names) for row in rows]
            for number, rows in chosen(args.table, args.only).items()
        }
        if args.print:
            show_commands(tables, args)
            return
        found: dict[str, list[dict[str, Any]]] = {}
        for number, plans in tables.items():
            found[number] = []
            for one in plans:
                train(one, args, names)
                found[number].append(entry(one, measure(one, args, names), args))
            print(table(number, found[number]) + "\n", flush=True)
    except FackeError as error:
        sys.exit(f"tables: {error}")
    rows = [row for some in found.values() for row in some]
    text = caveat(rows, args)
    print("\n".join(sorted({f"* {note}" for row in rows for note in row["notes"]})))
    factor = args.pairs / math.ceil(args.pairs / BATCH)
    print(
        f"* judge: {NAME}; pairs: {args.pairs}, seed {SEED}; facke2022 divides its means by "
        f"{factor:.4g} here\n\n{text}"
    )
    about = {"short": bool(args.small or args.steps), "caveat": text, "judge": NAME}
    write_figures(args.json, {**about, "tables": found})


def show_commands(tables: Mapping[str, Sequence[Plan]], args: argparse.Namespace) -> None:
    """Each training once."""
    for one in {p.row.run: p for plans in tables.values() for p in plans}.values():
        begin = (args.pretrained or str(args.runs / one.row.begin)) if one.row.begin else ""
        print(shlex.join(["facke", *one.command(begin, args.device)]))


if __name__ == "__main__":
    main()
