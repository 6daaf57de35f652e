"""What the scripts of this folder share: their options, their JSON, and where their pictures are.

Nothing heavy is imported here.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from facke_core import Bundled, Registry
from facke_core.config import write_json

PICTURES = "pictures"
"""A link to ``$FACKE_SHARED/faces/images``, so that commands and reports name no place outside."""
Row = dict[str, str]
"""Of the manifest of the pictures."""


def arguments(doc: str | None, *, quick: str) -> argparse.ArgumentParser:
    """The options that every script has.

    Args:
        doc: the docstring of the script.
        quick: what ``--quick`` leaves out or takes less of.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{quick}, within 50 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    return parser


def write_figures(file: Path | None, figures: Any) -> None:
    """What ``--json`` asks for."""
    if file is not None:
        write_json(file, figures)


def scratch(script: str) -> Path:
    """A new temporary folder for pictures that nobody named a place for; it stays."""
    return Path(tempfile.mkdtemp(prefix=f"facke-{script}-"))


def shared() -> Path:
    """``$FACKE_SHARED``, or ``shared`` beside the checkout."""
    return Path(os.environ.get("FACKE_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def missing(*names: str) -> str:
    """An empty string, or why a benchmark cannot run: ``faces/NAME`` is not in :func:`shared`."""
    if all((shared() / "faces" / name).is_file() for name in names):
        return ""
    return (
        f"{' and '.join(names)} of the reference pictures, which are not part of the repository, "
        f"cannot be found in {shared()}/faces. Set FACKE_SHARED to the folder that holds faces/."
    )


def require(*names: str) -> None:
    """Raises SystemExit, with a sentence, where :func:`missing` finds something."""
    if reason := missing(*names):
        sys.exit(f"{Path(sys.argv[0]).stem}: {reason}")


def manifest(group: str = "") -> list[Row]:
    """The rows of the manifest of the pictures, or those of one group."""
    with open(shared() / "faces" / "manifest.csv", newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if group in ("", row["group"])]


def neutral(rows: Sequence[Row], people: int | None = None) -> list[Row]:
    """The neutral faces of the London set among ``rows``; one for each of 60 people."""
    found = [r for r in rows if r["group"] == "london" and r["path"].endswith("/neutral.jpg")]
    return found[:people]


def link(folder: Path) -> None:
    """Make a folder, and in it the link :data:`PICTURES`."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / PICTURES).is_symlink():
        goal = (shared() / "faces" / "images").resolve()
        (folder / PICTURES).symlink_to(goal, target_is_directory=True)


def linked(row: Row) -> str:
    """Where a picture is, seen from a folder with the link."""
    return f"{PICTURES}/{row['path'].removeprefix('images/')}"


def bundled(names: Registry) -> list[str]:
    """The methods that have weights in their own package."""
    return [
        method.name
        for method in names.methods.values()
        if any(isinstance(where, Bundled) for where in method.weights.values())
    ]
