"""Who may import whom: the contracts in pyproject.toml and the numbers of tools/house.py."""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = {
    contract["id"]: contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"][
        "importlinter"
    ]["contracts"]
}
VIOLATIONS = {
    "core": ("facke_core/weights/layout.py", "import facke_vae.cvae"),
    "frameworks": ("facke_core/faces/paste.py", "def late():\n    import cv2"),
    "plugins": ("facke_gan/simswap.py", "def late():\n    from facke_diffusion import unet"),
    "command-line": ("facke_vae/cvae.py", "from facke_cli.console import say"),
    "any-method": ("facke_cli/console.py", "from facke_gan import simswap"),
    "layers": ("facke_core/pipeline.py", "def late():\n    import facke_core.evaluation.runner"),
}
"""What to add to which module, so that the contract breaks."""
PLANTED = {
    "up, in a function": VIOLATIONS["layers"],
    "up, for types only": (
        "facke_core/images/io.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import facke_core.faces.paste",
    ),
    "beside": ("facke_core/training/run.py", "import facke_core.jobs.engines"),
    "a room in no layer": ("facke_core/attic.py", "BOXES = 3"),
}
"""Imports that the twelve layers forbid."""
HOUSE: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "house.py"))


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The modules of the five packages, in a folder in which they may be changed."""
    folder = tmp_path_factory.mktemp("copied")
    left = shutil.ignore_patterns("__pycache__", "template", "*.safetensors", "*.png", "*.jpg")
    for source in ROOT.glob("packages/*/src/facke_*"):
        shutil.copytree(source, folder / source.name, ignore=left)
    return folder


def broken(folder: Path) -> set[str]:
    """The contracts that the packages in a folder break."""
    code = "from importlinter.cli import lint_imports_command as run; run()"
    options = ["--config", str(ROOT / "pyproject.toml"), "--cache-dir", str(folder / "cache")]
    done = subprocess.run(
        [sys.executable, "-c", code, *options],
        env={**os.environ, "PYTHONPATH": str(folder), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    verdicts = dict(re.findall(r"^(.+) (KEPT|BROKEN)(?: \(.*\))?$", done.stdout, flags=re.M))
    assert verdicts.keys() == set(CONTRACTS.values()), done.stdout + done.stderr
    found = {id_ for id_, name in CONTRACTS.items() if verdicts[name] == "BROKEN"}
    assert bool(found) == bool(done.returncode)
    return found


def test_the_contracts_are_kept(copied: Path) -> None:
    assert broken(copied) == set(), "run: ./dev lint-imports"


@pytest.mark.parametrize("contract", CONTRACTS)
def test_a_contract_breaks_when_it_is_violated(contract: str, copied: Path) -> None:
    name, code = VIOLATIONS[contract]
    module = copied / name
    before = module.read_text("utf-8")
    module.write_text(f"{before}\n{code}\n", "utf-8")
    try:
        assert contract in broken(copied)
    finally:
        module.write_text(before, "utf-8")


@pytest.mark.parametrize("planted", PLANTED)
def test_the_layers_hold_against(planted: str, copied: Path) -> None:
    name, code = PLANTED[planted]
    module = copied / name
    before = module.read_text("utf-8") if module.exists() else None
    module.write_text(f"{before or ''}\n{code}\n", "utf-8")
    try:
        assert broken(copied) == {"layers"}
    finally:
        if before is None:
            module.unlink()
        else:
            module.write_text(before, "utf-8")


def test_there_are_twelve_layers() -> None:
    assert len(HOUSE["layers"]()) == 12


# -- the house in numbers ------------------------------------------------------------------------


def test_no_files_import_each_other_in_a_circle() -> None:
    assert HOUSE["circles"](HOUSE["arrows"](HOUSE["packages"]())) == []


def test_a_circle_is_found_however_it_is_closed(tmp_path: Path) -> None:
    package = tmp_path / "facke_ring"
    package.mkdir()
    typing = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from facke_ring.a import A\n"
    codes = {
        "__init__": "from facke_ring.a import A",
        "a": "from facke_ring import b\nclass A: ...",
        "b": "def late():\n    import facke_ring.c",
        "c": typing,
        "d": "from facke_ring import A",
    }
    for name, code in codes.items():
        (package / f"{name}.py").write_text(code)
    rings = HOUSE["circles"](HOUSE["arrows"]([package]))
    assert rings == [["facke_ring.a", "facke_ring.b", "facke_ring.c"]]


def test_one_arrow_of_core_runs_up_and_it_is_known() -> None:
    upward = HOUSE["upward"](HOUSE["arrows"](HOUSE["packages"]()))
    assert upward == [("facke_core.types", "facke_core.faces.templates")]


OPTION = re.compile(r"(?<![\w-])--[a-z]")
WITHOUT_OPTIONS = ("facke_core", "facke_gan", "facke_vae", "facke_diffusion")
MAY = {
    # what a shell of a stranger takes, who reads the card on the Hub
    "facke_core/publish/card.py": "facke swap SOURCE TARGET",
    # of other programs
    "facke_core/faces/graphs.py": "pip install",
    "facke_core/identity/dlib_resnet.py": "pip install",
    "facke_core/testing/checking.py": "--junitxml=",
}


def texts(tree: ast.AST) -> list[str]:
    """All string constants, docstrings and the fixed parts of f-strings."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return [node.value for node in nodes if isinstance(node.value, str)]


def with_options(source: Path) -> list[str]:
    found = []
    for path in source.rglob("*.py"):
        name = path.relative_to(source.parent).as_posix()
        for text in texts(ast.parse(path.read_text("utf-8"))):
            if OPTION.search(text) and not (name in MAY and MAY[name] in text):
                found.append(f"{name}: {text}")
    return found


def test_core_and_the_plugins_name_no_option_of_the_command_line(tmp_path: Path) -> None:
    sources = [path for name in WITHOUT_OPTIONS for path in ROOT.glob(f"packages/*/src/{name}")]
    assert len(sources) == len(WITHOUT_OPTIONS)
    assert [found for source in sources for found in with_options(source)] == []
    planted = ('"""As --out."""', 'f"{x} is there. Add --force."', 'x = "-- --a"')
    for number, text in enumerate(planted):
        (tmp_path / f"m{number}.py").write_text(text)
    (tmp_path / "sound.py").write_text("'a -- b --- c-- d e--f'  # --out")
    assert len(with_options(tmp_path)) == len(planted)


def test_the_plugin_machinery_stays_small() -> None:
    assert sum(HOUSE["machinery"]().values()) <= 500


def test_the_public_surface_stays_small() -> None:
    assert HOUSE["public_names"]() <= 400
