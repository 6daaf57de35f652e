"""Rules that hold for the repository as a whole."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import facke_core

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
NAMES = [path.name for path in PACKAGES]
MODULES = sorted(ROOT.glob("packages/*/src/**/*.py"))
MAX_LINES = 400
LONG_FILES: dict[str, str] = {
    "facke_core/pipeline.py": "half of it says what its public stages and calls promise",
}
"""Modules that may be longer, and why. Take one out when it has become shorter."""


def project(package: Path) -> dict[str, Any]:
    return tomllib.loads((package / "pyproject.toml").read_text("utf-8"))["project"]


def in_package(module: Path) -> str:
    return module.as_posix().partition("/src/")[2]


def tracked() -> list[Path]:
    """Files that git knows, or would after ``git add``."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    paths = (ROOT / os.fsdecode(name) for name in done.stdout.split(b"\0") if name)
    return [path for path in paths if path.is_file()]


# -- versions ------------------------------------------------------------------------------------


def test_there_are_five_packages() -> None:
    assert NAMES == ["facke-cli", "facke-core", "facke-diffusion", "facke-gan", "facke-vae"]


def test_all_versions_are_the_same() -> None:
    versions = {path.name: project(path)["version"] for path in (ROOT, *PACKAGES)}
    assert set(versions.values()) == {facke_core.__version__}, versions


def test_packages_pin_each_other_exactly() -> None:
    for package in PACKAGES:
        own = [one for one in project(package)["dependencies"] if one.startswith("facke-")]
        assert all(one.endswith(f"=={facke_core.__version__}") for one in own), (package.name, own)
        assert own or package.name == "facke-core"


def test_official_plugins_bring_the_command_line() -> None:
    for name in ("facke-gan", "facke-vae", "facke-diffusion"):
        needs = project(ROOT / "packages" / name)["dependencies"]
        assert any(one.startswith("facke-cli==") for one in needs), name


def test_the_installed_packages_are_this_checkout() -> None:
    for name in NAMES:
        assert importlib.metadata.version(name) == facke_core.__version__
        spec = importlib.util.find_spec(name.replace("-", "_"))
        assert spec is not None
        assert spec.origin is not None
        assert Path(spec.origin).is_relative_to(ROOT), f"run ./dev again: {spec.origin}"


def test_the_changelog_has_the_version_or_a_section_for_it() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"## {facke_core.__version__}" in text


# -- packages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES, ids=NAMES)
def test_a_package_is_typed_licensed_and_described(package: Path) -> None:
    assert (package / "src" / package.name.replace("-", "_") / "py.typed").is_file()
    assert (package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert len((package / "README.md").read_text("utf-8").splitlines()) > 5
    about = project(package)
    assert about["license"] == "Apache-2.0"
    assert about["requires-python"] == ">=3.11"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "facke-cli"])
def test_the_entry_point_loads(name: str) -> None:
    (entry,) = importlib.metadata.entry_points(group="facke.plugins", name=name)
    where = "plugins.core" if name == "facke-core" else "plugin"
    assert entry.value == f"{name.replace('-', '_')}.{where}"
    entry.load()


def test_the_facke_command_is_an_entry_point() -> None:
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="facke")
    assert callable(entry.load())


# -- modules -------------------------------------------------------------------------------------


def imported(module: Path) -> Iterator[str]:
    """Top-level packages that a module imports anywhere, for type checking too."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: write imports in full"
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("package", PACKAGES, ids=NAMES)
def test_core_knows_no_plugin_and_plugins_only_core(package: Path) -> None:
    own = package.name.replace("-", "_")
    for module in package.glob("src/**/*.py"):
        facke = {name for name in imported(module) if name.startswith("facke")}
        assert facke <= {own, "facke_core"}, in_package(module)


def test_core_imports_no_framework_that_it_does_not_depend_on() -> None:
    never = {"cv2", "onnxruntime", "lightning", "diffusers", "transformers", "insightface"}
    for module in (ROOT / "packages/facke-core/src").rglob("*.py"):
        assert not never.intersection(imported(module)), in_package(module)


def test_every_module_postpones_its_annotations() -> None:
    future = "from __future__ import annotations"
    missing = []
    for module in MODULES:
        text = module.read_text("utf-8")
        only_docstring = len(ast.parse(text).body) <= 1
        if not only_docstring and future not in text.splitlines():
            missing.append(in_package(module))
    assert missing == []


def test_no_module_is_too_long() -> None:
    lines = {in_package(module): len(module.read_text("utf-8").splitlines()) for module in MODULES}
    long = {name for name, count in lines.items() if count > MAX_LINES}
    assert long - LONG_FILES.keys() == set()
    assert LONG_FILES.keys() - long == set(), "short again: take it out of LONG_FILES"


def test_nothing_unpickles() -> None:
    risky = re.compile(r"\b(pickle|joblib|dill)\b.*import|import (pickle|joblib|dill)\b")
    for module in MODULES:
        text = module.read_text("utf-8")
        assert not risky.search(text), in_package(module)
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert module.name in ("convert.py", "perceptual.py"), in_package(module)
            assert "weights_only=True" in call, in_package(module)


# -- repository ----------------------------------------------------------------------------------


def test_the_lock_has_hashes_and_no_addresses() -> None:
    text = (ROOT / "requirements.lock").read_text("utf-8")
    assert "://" not in text
    assert "file:" not in text
    assert not re.search(r"^(-e|--|\.|/)", text, flags=re.M)
    logical = text.replace("\\\n", " ").splitlines()
    requirements = [line for line in logical if line.strip() and not line.lstrip().startswith("#")]
    assert len(requirements) > 50
    assert [line for line in requirements if "--hash=sha256:" not in line] == []


def test_the_lock_satisfies_every_package() -> None:
    from packaging.requirements import Requirement

    text = (ROOT / "requirements.lock").read_text("utf-8").replace("\\\n", " ")
    locked: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, flags=re.M):
        locked.setdefault(name.lower().replace("_", "-"), []).append(version)
    workspace = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = [*workspace["dependency-groups"]["dev"]]
    for package in PACKAGES:
        about = project(package)
        wanted += about["dependencies"]
        wanted += [
            one for group in about.get("optional-dependencies", {}).values() for one in group
        ]
    for requirement in map(Requirement, wanted):
        name = requirement.name.lower().replace("_", "-")
        if not name.startswith("facke-"):
            assert name in locked, f"{name} is not locked; see CONTRIBUTING.md"
            assert any(map(requirement.specifier.contains, locked[name])), requirement


def test_no_tracked_file_names_a_folder_of_one_machine() -> None:
    machine = re.compile(rb"(?<![\w.])/(work|root|home/\w+)/")
    found = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix not in {".png", ".jpg", ".safetensors"} and machine.search(path.read_bytes())
    ]
    assert found == []


def test_no_tracked_file_is_large() -> None:
    large = {
        str(path.relative_to(ROOT)): path.stat().st_size
        for path in tracked()
        if path.stat().st_size > 1_000_000
    }
    weights = {name for name in large if name.endswith(".safetensors")}
    assert large.keys() - weights == set()
    assert all(large[name] <= 16 * 2**20 for name in weights), large


def test_ci_runs_the_test_command_of_the_readme() -> None:
    ci = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    readme = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert "./dev pytest" in ci
    assert "./dev pytest" in readme
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


# -- wheels --------------------------------------------------------------------------------------

CONTENT = {
    "facke-core": ["facke_core/identity/dlib_mean.json", "facke_core/testing/portrait.jpg"],
    "facke-cli": [
        "facke_cli/samples/collins.png",
        "facke_cli/samples/hopper.jpg",
        "facke_cli/template/copier.yml",
    ],
    "facke-gan": [
        "facke_gan/recipes/simswap-mini.json",
        "facke_gan/weights/simswap-mini/config.json",
        "facke_gan/weights/simswap-mini/model.safetensors",
        "facke_gan/weights/simswap-mini/README.md",
        "facke_gan/weights/simswap-mini/test/io.safetensors",
    ],
    "facke-vae": [
        "facke_vae/recipes/cvae-gan-mini.json",
        "facke_vae/weights/cvae-gan-mini/config.json",
        "facke_vae/weights/cvae-gan-mini/model.safetensors",
        "facke_vae/weights/cvae-gan-mini/README.md",
        "facke_vae/weights/cvae-gan-mini/test/io.safetensors",
    ],
    "facke-diffusion": [
        "facke_diffusion/recipes/ddpm-64.json",
        "facke_diffusion/weights/ddpm-mini/config.json",
        "facke_diffusion/weights/ddpm-mini/model.safetensors",
        "facke_diffusion/weights/ddpm-mini/README.md",
        "facke_diffusion/weights/ddpm-mini/test/io.safetensors",
    ],
}
"""Files beside the modules that a wheel must carry."""


@pytest.mark.parametrize("package", PACKAGES, ids=NAMES)
def test_a_wheel_carries_everything(package: Path, tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="needs the build backend")
    build = "import hatchling.build, sys; hatchling.build.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=package, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    source = package / "src"
    modules = {str(path.relative_to(source)) for path in source.rglob("*.py")}
    own = package.name.replace("-", "_")
    assert names >= modules | {f"{own}/py.typed"}
    assert names >= set(CONTENT[package.name])
    info = f"{own}-{facke_core.__version__}.dist-info"
    assert names >= {f"{info}/licenses/LICENSE", f"{info}/METADATA"}
    assert not [name for name in names if name.endswith((".pyc", "pyproject.toml"))]
    assert {name.partition("/")[0] for name in names} == {own, info}
    assert wheel.stat().st_size < 20 * 2**20


# -- ./dev ---------------------------------------------------------------------------------------


class Checkout:
    """A checkout with ``dev`` and little else; ``uv`` is a script that writes what it was told."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a folder with spaces"
        (self.root / "packages" / "one").mkdir(parents=True)
        (self.root / "requirements.lock").write_text("")
        (self.root / "packages" / "one" / "pyproject.toml").write_text("")
        (self.root / "dev").write_bytes((ROOT / "dev").read_bytes())
        (self.root / "dev").chmod(0o755)
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.log = folder / "log"
        self.uv()

    def uv(self, *, fails_at: str = "never", status: int = 1) -> None:
        script = self.bin / "uv"
        script.write_text(
            f'#!/bin/sh\necho "$*" >>"{self.log}"\n'
            f'case "$*" in *{fails_at}*) exit {status};; venv*) mkdir -p .venv/bin;; esac\n'
        )
        script.chmod(0o755)

    def dev(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run(
            [str(self.root / "dev"), *command],
            cwd=cwd or self.root,
            env=environment,
            capture_output=True,
            text=True,
        )

    @property
    def setups(self) -> int:
        return self.log.read_text().count("venv -q") if self.log.exists() else 0


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_dev_sets_up_once_and_runs_in_the_callers_folder(
    checkout: Checkout, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for _ in range(2):
        assert checkout.dev("pwd", "-P", cwd=elsewhere).stdout.strip() == str(elsewhere)
    assert checkout.setups == 1
    calls = checkout.log.read_text()
    assert "--require-hashes -r requirements.lock" in calls
    assert "-e ./packages/one" in calls
    assert "--python .venv/bin/python" in calls, "another active environment must not be used"


def test_dev_passes_arguments_and_the_exit_status_on(checkout: Checkout) -> None:
    assert checkout.dev("printf", "<%s>", "two words", "*").stdout == "<two words><*>"
    assert checkout.dev("sh", "-c", "exit 7").returncode == 7
    assert checkout.dev("sh", "-c", "echo $PATH").stdout.startswith(f"{checkout.root}/.venv/bin:")


def test_dev_docs_builds_the_site_from_any_folder(checkout: Checkout, tmp_path: Path) -> None:
    (checkout.bin / "mkdocs").write_text('#!/bin/sh\necho "$(pwd -P): $*"\n')
    (checkout.bin / "mkdocs").chmod(0o755)
    root = checkout.root.resolve()
    assert checkout.dev("docs", cwd=tmp_path).stdout == f"{root}: build --quiet\n"
    assert checkout.dev("docs", "serve", cwd=tmp_path).stdout == f"{root}: serve\n"


@pytest.mark.parametrize("file", ["requirements.lock", "packages/one/pyproject.toml"])
def test_dev_sets_up_again_after_a_change(checkout: Checkout, file: str) -> None:
    checkout.dev("true")
    (checkout.root / file).write_text("changed")
    checkout.dev("true")
    assert checkout.setups == 2


@pytest.mark.parametrize(("status", "kept"), [(130, False), (2, True)])
def test_dev_starts_over_after_an_interruption_but_not_after_a_failure(
    checkout: Checkout, status: int, kept: bool
) -> None:
    checkout.uv(fails_at="require-hashes", status=status)
    failed = checkout.dev("echo", "ran")
    assert (failed.stdout, failed.returncode) == ("", status)
    (checkout.root / ".venv" / "before").touch()
    checkout.uv()
    assert checkout.dev("echo", "ran").stdout == "ran\n"
    assert (checkout.root / ".venv" / "before").exists() is kept


def test_dev_notices_that_the_checkout_was_moved(checkout: Checkout) -> None:
    checkout.dev("true")
    (checkout.root / ".venv" / "old").touch()
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    checkout.dev("true")
    assert checkout.setups == 2
    assert not (checkout.root / ".venv" / "old").exists()


def test_dev_called_twice_at_once_sets_up_once(checkout: Checkout) -> None:
    subprocess.run(
        ["sh", "-c", "./dev true & ./dev true & wait"],
        cwd=checkout.root,
        env={**os.environ, "PATH": f"{checkout.bin}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        check=True,
    )
    assert checkout.setups == 1
