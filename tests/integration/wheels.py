"""Builds wheels and installs them into a folder, without a network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "1.2"

[project.entry-points."facke.plugins"]
{name} = "{package}.plugin"
"""


BROKEN = {"plugin": "raise RuntimeError('compiled against another CUDA')\n"}
"""The modules of a plugin that cannot be imported."""


def write_plugin(folder: Path, name: str, modules: dict[str, str]) -> Path:
    """A project with these modules."""
    package = name.replace("-", "_")
    (folder / package).mkdir(parents=True)
    (folder / "pyproject.toml").write_text(_PROJECT.format(name=name, package=package))
    for module, code in {"__init__": "", **modules}.items():
        (folder / package / f"{module}.py").write_text(code)
    return folder


def install_plugin(site: Path, work: Path, name: str, modules: dict[str, str]) -> None:
    """Write a plugin with these modules, build its wheel and install that into ``site``.

    ``work`` is a folder for what comes about on the way.
    """
    install(site, build_wheel(write_plugin(work / name, name, modules), work / "dist"))


def build_wheel(project: Path, into: Path) -> Path:
    """The wheel of a project that hatchling builds."""
    pytest.importorskip("hatchling", reason="needs the build backend")
    into.mkdir(parents=True, exist_ok=True)
    build = "import hatchling.build, sys; print(hatchling.build.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(into)],
        cwd=project,
        check=True,
        capture_output=True,
        text=True,
    )
    return into / done.stdout.split()[-1]


def find_uv() -> str:
    """The program, or the test is skipped."""
    uv = shutil.which("uv") or shutil.which(str(ROOT / ".uv" / "bin" / "uv"))
    if uv is None:
        pytest.skip("uv is not on the PATH; run the tests as ./dev pytest")
    return uv


def install(site: Path, *wheels: Path) -> None:
    """As ``pip install`` does, but into a folder of their own and without dependencies."""
    command = [find_uv(), "pip", "install", "--offline", "--no-deps", "--target", str(site)]
    command += ["--python", sys.executable, *map(str, wheels)]
    subprocess.run(command, check=True, capture_output=True)
