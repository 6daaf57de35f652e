"""The packages in ``examples`` are what the template makes of them, and work with released ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from wheels import ROOT, build_wheel, install

from facke_cli.commands.plugins_new import generate

EXAMPLES = ROOT / "examples"
WRITTEN = {"MODEL_CARD.md", "README.md", "method.py", "plugin.py"}
CHANGED = {
    "pyramid": {*WRITTEN, "test_facke_pyramid.py"},
    "mobile": {*WRITTEN, "test_facke_mobile.py", "pyproject.toml"},
}
"""What their authors wrote anew; all else is the template's."""
ADDED = {
    "pyramid": set[str](),
    "mobile": {
        *("training.py", "mobile.json", "DATA.md", "README.md", "config.json"),
        *("evaluation.json", "io.safetensors", "log.jsonl", "log.svg", "model.safetensors"),
    },
}
"""Files that the template does not have."""
NEEDS = {"pyramid": (), "mobile": ("facke-gan",)}
"""Packages that they need besides facke-core and facke-cli."""


def files(folder: Path) -> dict[str, bytes]:
    made = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", "dist"}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not made.intersection(path.parts)
    }


@pytest.mark.parametrize("name", CHANGED)
def test_an_example_is_what_the_template_makes_but_for_its_own_files(
    name: str, tmp_path: Path
) -> None:
    generate(tmp_path / "fresh", name=f"facke-{name}", method=name)
    fresh, ours = files(tmp_path / "fresh"), files(EXAMPLES / f"facke-{name}")
    assert fresh.keys() <= ours.keys()
    assert {Path(file).name for file in ours.keys() - fresh.keys()} == ADDED[name]
    changed = {Path(file).name for file in fresh if ours[file] != fresh[file]}
    assert changed == CHANGED[name], "generate it anew, or change the template as well"


def test_the_trained_example_stays_small() -> None:
    code = [*(EXAMPLES / "facke-mobile" / "src").rglob("*.py")]
    assert sum(len(file.read_text().splitlines()) for file in code) <= 400


# -- with wheels ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of the examples and of what they need."""
    folder, site = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("released")
    packages = ("facke-core", "facke-cli", "facke-gan")
    projects = [ROOT / "packages" / name for name in packages]
    projects += [EXAMPLES / f"facke-{name}" for name in CHANGED]
    install(site, *(build_wheel(project, folder) for project in projects))
    return site


def run(site: Path, folder: Path, example: str, *command: str) -> subprocess.CompletedProcess[str]:
    """In a process that sees the wheels before the source tree, and no other plugin of facke."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "FACKE_PLUGINS": ",".join([f"facke-{example}", *NEEDS[example]]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def facke(site: Path, folder: Path, example: str, *words: str) -> Any:
    code = "import sys; from facke_cli.main import main; sys.exit(main(sys.argv[1:]))"
    return json.loads(run(site, folder, example, "-c", code, *words, "--json").stdout)


@pytest.mark.parametrize("name", CHANGED)
def test_its_own_tests_pass_against_the_wheels(name: str, released: Path, tmp_path: Path) -> None:
    code = f"import facke_core, facke_{name}.method as m; print(facke_core.__file__, m.__file__)"
    for file in run(released, tmp_path, name, "-c", code).stdout.split():
        assert Path(file).is_relative_to(released), "the source tree came first"
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(tmp_path / "pytest.ini")]
    out = run(released, tmp_path, name, *tests, str(EXAMPLES / f"facke-{name}" / "tests")).stdout
    assert " passed" in out
    assert "failed" not in out


@pytest.mark.parametrize("name", CHANGED)
def test_it_passes_the_kit(name: str, released: Path, tmp_path: Path) -> None:
    report = facke(released, tmp_path, name, "plugins", "check", f"facke-{name}")
    assert report["failed"] == 0
    assert report["passed"] > 25


MEASURE = """
import json, sys, torch
from facke_cli.samples import sample_or_path
from facke_core import load, load_encoder
from facke_core.images.io import read_image
from facke_core import Alignment
from facke_core.building import make_detector
from facke_core.faces.align import align

names = ("collins", "hopper")
photos = {name: read_image(sample_or_path("sample:" + name)).image for name in names}
photos["none"] = photos["hopper"]
photos["full"] = load(sys.argv[1])(photos["collins"], photos["hopper"]).image
detect, encode = make_detector(), load_encoder("dlib-resnet29")
faces = {name: detect(photo)[0] for name, photo in photos.items()}
alignment = Alignment(template="simswap_frontal", size=224)
crops = torch.stack([align(photos[name], face, alignment).crop for name, face in faces.items()])
source, target, none, full = encode(crops)
points = {name: face.landmarks for name, face in faces.items()}
eyes = (points["hopper"][0] - points["hopper"][1]).norm()
print(json.dumps({
    "shift": float((points["full"] - points["hopper"]).norm(dim=1).mean() / eyes),
    "gain": float((full - none) @ source),
}))
"""


@pytest.mark.parametrize("name", CHANGED)
def test_it_keeps_the_targets_pose_and_takes_the_sources_identity(
    name: str, released: Path, tmp_path: Path
) -> None:
    pytest.importorskip("mediapipe")
    words = ["swap", "--method", name, "sample:collins", "sample:hopper", "-o", "out.png"]
    assert facke(released, tmp_path, name, *words)["method"] == name
    assert (tmp_path / "out.png").is_file()
    found = json.loads(run(released, tmp_path, name, "-c", MEASURE, name).stdout)
    assert found["shift"] < 0.1, "distances of the eyes"
    assert found["gain"] > 0.1, "cosine"  # her glasses stay, and much of her with them
