"""Build the wheel and the sdist of every package, and print their sizes.

./dev python tools/build.py [FOLDER]

FOLDER is ``dist`` unless given. Needs no network.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from hatchling.build import build_sdist, build_wheel

ROOT = Path(__file__).resolve().parent.parent
LARGEST = 25_000_000
"""Bytes of a file that is published."""


def packages() -> list[Path]:
    """The folders of the packages."""
    return sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))


def build(project: Path, folder: Path) -> tuple[Path, Path]:
    """The wheel and the sdist of a project, written to a folder.

    Raises:
        SystemExit: one of them is too large.
    """
    folder.mkdir(parents=True, exist_ok=True)
    into = str(folder.resolve())
    with contextlib.chdir(project):
        wheel, sdist = (Path(into) / make(into) for make in (build_wheel, build_sdist))
    for path in (wheel, sdist):
        if path.stat().st_size > LARGEST:
            raise SystemExit(f"{path.name} has {path.stat().st_size} bytes, above {LARGEST}.")
    return wheel, sdist


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "dist")
    for project in packages():
        for path in build(project, folder):
            print(f"{path.stat().st_size / 1e6:7.2f} MB  {path}")


if __name__ == "__main__":
    main()
