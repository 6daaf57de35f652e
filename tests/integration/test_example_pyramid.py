"""``examples/facke-pyramid`` is what the template makes of it, and works with released packages."""

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

EXAMPLE = ROOT / "examples" / "facke-pyramid"
CHANGED = {
    "MODEL_CARD.md",
    "README.md",
    "src/facke_pyramid/method.py",
    "src/facke_pyramid/plugin.py",
    "tests/test_facke_pyramid.py",
}
"""What its author wrote; all else is the template's."""


def files(folder: Path) -> dict[str, bytes]:
    made = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", "dist"}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not made.intersection(path.parts)
    }


def test_the_example_is_what_the_template_makes_but_for_its_own_files(tmp_path: Path) -> None:
    generate(tmp_path / "fresh", name="facke-pyramid", method="pyramid")
    fresh, ours = files(tmp_path / "fresh"), files(EXAMPLE)
    assert ours.keys() == fresh.keys()
    assert {name for name in ours if ours[name] != fresh[name]} == CHANGED, (
        "generate it anew, or change the template as well"
    )


# -- with wheels ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of facke-core, facke-cli and the example."""
    folder, site = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("released")
    projects = [ROOT / "packages" / "facke-core", ROOT / "packages" / "facke-cli", EXAMPLE]
    install(site, *(build_wheel(project, folder) for project in projects))
    return site


def run(site: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """In a process that sees the wheels before the source tree, and no other plugin of facke."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "FACKE_PLUGINS": "facke-pyramid",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def facke(site: Path, folder: Path, *words: str) -> Any:
    code = "import sys; from facke_cli.main import main; sys.exit(main(sys.argv[1:]))"
    return json.loads(run(site, folder, "-c", code, *words, "--json").stdout)


def test_its_own_tests_pass_against_the_wheels(released: Path, tmp_path: Path) -> None:
    code = "import facke_core, facke_pyramid.method as m; print(facke_core.__file__, m.__file__)"
    for file in run(released, tmp_path, "-c", code).stdout.split():
        assert Path(file).is_relative_to(released), "the source tree came first"
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(tmp_path / "pytest.ini")]
    out = run(released, tmp_path, *tests, str(EXAMPLE / "tests")).stdout
    assert " passed" in out
    assert "failed" not in out


def test_it_passes_the_kit(released: Path, tmp_path: Path) -> None:
    report = facke(released, tmp_path, "plugins", "check", "facke-pyramid")
    assert report["failed"] == 0
    assert report["passed"] > 25


MEASURE = """
import json, torch
from facke_cli.samples import sample_or_path
from facke_core import load, load_encoder
from facke_core.data.images import read_image
from facke_core.faces.align import Alignment, align
from facke_core.faces.detect import make_detector

names = ("collins", "hopper")
photos = {name: read_image(sample_or_path("sample:" + name)).image for name in names}
for strength in (0.0, 1.0):
    swapper = load("pyramid", sampler={"strength": strength})
    photos[str(strength)] = swapper(photos["collins"], photos["hopper"]).image
detect, encode = make_detector(), load_encoder("dlib-resnet29")
faces = {name: detect(photo)[0] for name, photo in photos.items()}
alignment = Alignment(template="simswap_frontal", size=224)
crops = torch.stack([align(photos[name], face, alignment).crop for name, face in faces.items()])
source, target, none, full = encode(crops)
points = {name: face.landmarks for name, face in faces.items()}
eyes = (points["hopper"][0] - points["hopper"][1]).norm()
print(json.dumps({
    "shift": float((points["1.0"] - points["hopper"]).norm(dim=1).mean() / eyes),
    "gain": float((full - none) @ source),
}))
"""


def test_it_keeps_the_targets_pose_and_takes_the_sources_identity(
    released: Path, tmp_path: Path
) -> None:
    pytest.importorskip("mediapipe")
    words = ["swap", "--method", "pyramid", "sample:collins", "sample:hopper", "-o", "out.png"]
    assert facke(released, tmp_path, *words)["method"] == "pyramid"
    assert (tmp_path / "out.png").is_file()
    found = json.loads(run(released, tmp_path, "-c", MEASURE).stdout)
    assert found["shift"] < 0.1, "distances of the eyes"
    assert found["gain"] > 0.2, "cosine"
