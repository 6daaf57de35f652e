"""Who may import whom: the contracts in pyproject.toml, kept, and able to fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

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


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The modules of the five packages, in a folder in which they may be changed."""
    folder = tmp_path_factory.mktemp("copied")
    left = shutil.ignore_patterns("__pycache__", "template", "weights", "*.png", "*.jpg")
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
    verdicts = dict(re.findall(r"^(.+) (KEPT|BROKEN)$", done.stdout, flags=re.M))
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
