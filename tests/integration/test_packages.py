"""The five packages as they are published: wheels and sdists, in environments that have no others.

An environment is a new one into which our wheels are installed. What they depend on is not
downloaded again: it is linked from the development environment, without anything of facke. So
entry points, modules and data come from the wheels alone; that the dependencies can be installed
is not tested here, only that a wheel names them.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import runpy
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from wheels import ROOT, build_wheel, find_uv

TOOL: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "build.py"))
NAMES = [path.name for path in TOOL["packages"]()]


class Built(NamedTuple):
    wheel: Path
    sdist: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    folder = tmp_path_factory.mktemp("dist")
    return {path.name: Built(*TOOL["build"](path, folder)) for path in TOOL["packages"]()}


def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def requirements(wheel: Path) -> list[Requirement]:
    """All that a wheel's metadata names, for any extra."""
    (metadata,) = (data for name, data in content(wheel).items() if name.endswith("/METADATA"))
    return [Requirement(line) for line in message_from_bytes(metadata).get_all("Requires-Dist", [])]


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_wheel_from_the_sdist_is_that_from_the_tree(
    name: str, built: dict[str, Built], tmp_path: Path
) -> None:
    with tarfile.open(built[name].sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (project,) = tmp_path.iterdir()
    for file in ("LICENSE", "README.md"):
        assert (project / file).read_bytes() == (ROOT / "packages" / name / file).read_bytes()
    again = content(build_wheel(project, tmp_path / "dist"))
    first = content(built[name].wheel)
    assert again.keys() == first.keys()
    assert [file for file in first if again[file] != first[file]] == []


def test_a_file_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOOL["build"].__globals__, "LARGEST", 100)
    with pytest.raises(SystemExit, match=r"facke_vae.* above 100"):
        TOOL["build"](ROOT / "packages" / "facke-vae", tmp_path)


def imported(wheel: Path) -> dict[str, str]:
    """Each top-level package that the modules of a wheel import -> one of these modules."""
    found: dict[str, str] = {}
    for name, data in content(wheel).items():
        if not name.endswith(".py") or "/template/" in name:
            continue
        for node in ast.walk(ast.parse(data)):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0]: name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found[node.module.partition(".")[0]] = name
    return {
        package: name for package, name in found.items() if package not in sys.stdlib_module_names
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_wheel_names_what_its_modules_import(name: str, built: dict[str, Built]) -> None:
    named = {canonicalize_name(name)}
    todo = [name]
    while todo:  # the packages of facke have one version, and what one brings the others may use
        for requirement in requirements(built[todo.pop()].wheel):
            known = canonicalize_name(requirement.name)
            if known in built and known not in named:
                todo.append(known)
            named.add(known)
    owners = importlib.metadata.packages_distributions()
    missing = {
        package: module
        for package, module in imported(built[name].wheel).items()
        if not named & {canonicalize_name(one) for one in owners.get(package, [package])}
    }
    assert missing == {}


# -- environments --------------------------------------------------------------------------------


class Environment:
    """A new environment with some of our wheels."""

    def __init__(self, folder: Path, *wheels: Path) -> None:
        uv = find_uv()
        self.folder, self.bin = folder, folder / "bin"
        options = ["-q", "--offline", "--python"]
        self._call(uv, "venv", *options, sys.executable, str(folder))
        python = str(self.bin / "python")
        self._call(uv, "pip", "install", *options, python, "--no-deps", *map(str, wheels))
        site = self._call(python, "-c", "import sysconfig as s; print(s.get_path('purelib'))")
        (Path(site.strip()) / "dependencies.pth").write_text(f"{folder / 'dependencies'}\n")
        self._link(folder / "dependencies")

    def _link(self, folder: Path) -> None:
        folder.mkdir()
        for path in Path(str(importlib.metadata.distribution("torch").locate_file(""))).iterdir():
            ours = "facke_" in path.name and "recognition" not in path.name
            if not ours and path.suffix != ".pth":
                (folder / path.name).symlink_to(path)

    def _call(self, *command: str) -> str:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        keep = {"HOME", "TMPDIR", "LANG", "OMP_NUM_THREADS"}
        environment = {name: value for name, value in os.environ.items() if name in keep}
        return subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=self.folder,
            env={**environment, "PATH": str(self.bin), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )

    def facke(self, *words: str) -> Any:
        done = self.run("facke", *words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def test_core_alone_loads_and_has_no_command(built: dict[str, Built], tmp_path: Path) -> None:
    alone = Environment(tmp_path / "alone", built["facke-core"].wheel)
    code = (
        "import facke_core; from facke_core import load; print(load.__name__, facke_core.__file__)"
    )
    done = alone.run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    name, file = done.stdout.split()
    assert name == "load"
    assert Path(file).is_relative_to(alone.folder), "the source tree came first"
    assert not (alone.bin / "facke").exists()
    for other in ("facke_cli", "facke_gan"):
        assert f"No module named '{other}'" in alone.run("python", "-c", f"import {other}").stderr
    found = alone.run(
        "python",
        "-c",
        "from facke_core import default_registry as r; print(list(r().methods), r().failures)",
    )
    assert found.stdout == "[] []\n", found.stderr


def test_the_gan_package_brings_the_command_and_simswap(
    built: dict[str, Built], tmp_path: Path
) -> None:
    pytest.importorskip("mediapipe")
    names = ("facke-core", "facke-cli", "facke-gan")
    gan = Environment(tmp_path / "gan", *(built[name].wheel for name in names))
    needs = [
        one for one in requirements(built["facke-gan"].wheel) if "extra" not in str(one.marker)
    ]
    wanted = {canonicalize_name(one.name) for one in needs}
    assert wanted == {"facke-core", "facke-cli"}
    assert [row["name"] for row in gan.facke("methods")] == ["fuse", "simswap", "warp"]
    report = gan.facke(
        "swap", "--method", "simswap", "sample:collins", "sample:hopper", "-o", "out.png"
    )
    assert (report["method"], len(report["faces"])) == ("simswap", 1)
    assert (gan.folder / "out.png").stat().st_size > 10_000


def test_all_five_work_together(built: dict[str, Built], tmp_path: Path) -> None:
    every = Environment(tmp_path / "every", *(one.wheel for one in built.values()))
    rows = {row["name"]: row for row in every.facke("methods")}
    weights = {name: row["weights"] for name, row in rows.items()}
    bundled = dict.fromkeys(("cvae-gan", "fuse", "ilvr", "simswap"), "bundled")
    assert weights == {"cvae": "none", "warp": "none"} | bundled
    plugins = every.facke("plugins")
    assert {row["name"] for row in plugins} == {*NAMES} - {"facke-cli"}
    assert [row["failure"] for row in plugins if row["failure"]] == []
    shown = every.run("facke", "--version").stdout.split()
    assert set(shown[::2]) == {*NAMES}
