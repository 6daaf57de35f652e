"""``facke plugins new`` writes a package that works; ``facke plugins check`` says what does not."""

from __future__ import annotations

import builtins
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from wheels import BROKEN, ROOT, install_plugin

from facke_cli.commands.plugins_new import generate
from facke_cli.main import main
from facke_core.plugins.registry import default_registry

METHOD = """
from dataclasses import dataclass

from torch import nn

from facke_core import GeneratorOutput, GeneratorSpec, Method


@dataclass(frozen=True)
class Config:
    image_size: int = 64


class Invert(nn.Module):
    spec = GeneratorSpec(image_size=64, identity_dim=0, conditions=frozenset({"source"}))

    def forward(self, x, *, source):
        return GeneratorOutput(1 - x, {})


class Sampler:
    supplies = frozenset({"source"})

    def __call__(self, generator, inputs, *, rng=None):
        return generator(inputs.target, source=inputs.source).image


def build(config):
    return Method(Invert(), Sampler())
"""
PLUGIN = """
from facke_core import CommandSpec, MethodSpec, hookimpl


@hookimpl
def facke_methods():
    m = "facke_flawed.m"
    return [MethodSpec(name="invert", summary="turns colours around", config=m + ":Config",
                       build=m + ":build", default_config={}, license="CC0-1.0")]


@hookimpl
def facke_commands():
    return [CommandSpec(name="flaw", target="facke_flawed.m:no_such", help="Nothing.")]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``facke plugins new facke-demo`` writes."""
    folder = tmp_path_factory.mktemp("made")
    generate(folder / "facke-demo", name="facke-demo", method="demo")
    return folder / "facke-demo"


@pytest.fixture
def flawed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed method that ignores its source, a command without a target, and a plugin that
    cannot be imported."""
    site = tmp_path / "site"
    install_plugin(site, tmp_path, "facke-flawed", {"plugin": PLUGIN, "m": METHOD})
    install_plugin(site, tmp_path, "facke-broken", BROKEN)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site))
    importlib.invalidate_caches()
    default_registry.cache_clear()
    yield
    default_registry.cache_clear()


def facke(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(words)
    return (code, *capsys.readouterr())


# -- new -----------------------------------------------------------------------------------------


def test_a_new_plugin_has_everything_that_a_package_needs(made: Path) -> None:
    files = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    assert files == {
        ".github/workflows/ci.yml",
        ".gitignore",
        "MODEL_CARD.md",
        "README.md",
        "pyproject.toml",
        "src/facke_demo/__init__.py",
        "src/facke_demo/method.py",
        "src/facke_demo/plugin.py",
        "src/facke_demo/py.typed",
        "tests/test_facke_demo.py",
    }
    text = "".join((made / name).read_text("utf-8") for name in sorted(files))
    assert "{%" not in text
    assert "{{" not in text.replace("${{ matrix.python }}", "")
    assert "__pycache__" in (made / ".gitignore").read_text("utf-8")


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        # with the options of this repository, which are the same, and so with its cache
        ["mypy", "--config-file", str(ROOT / "pyproject.toml"), "src", "tests"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_new_plugin_is_clean(made: Path, command: list[str]) -> None:
    cache = str(ROOT / ".mypy_cache")
    environment = {**os.environ, "MYPY_CACHE_DIR": cache, "RUFF_NO_CACHE": "true"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=made, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_method_gets_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plugins", "new", "face-lab", "--method", "soft-mix"]) == 0
    plugin = (tmp_path / "face-lab/src/face_lab/plugin.py").read_text("utf-8")
    assert 'name="soft-mix"' in plugin
    assert 'build="face_lab.method:build"' in plugin
    assert "class SoftMixGenerator" in (tmp_path / "face-lab/src/face_lab/method.py").read_text()


@pytest.mark.parametrize("name", ["Facke-Demo", "facke_demo", "../demo", "-demo", "a--b", "a-"])
def test_other_names_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = facke(capsys, "plugins", "new", "--", name)
    assert code == 2
    assert "such as facke-demo" in err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["class"], "Try facke-class"),
        (["facke-core"], "'facke_core' is installed already"),
        (["facke-mine", "--method", "simswap"], "'facke-gan' has a method 'simswap' already"),
    ],
)
def test_names_that_others_have_are_refused(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = facke(capsys, "plugins", "new", *words)
    assert code == 2
    assert message in err
    assert not any(tmp_path.iterdir())


def test_files_that_are_there_are_kept_without_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "facke-demo").mkdir()
    (tmp_path / "facke-demo" / "README.md").write_text("mine")
    code, _, err = facke(capsys, "plugins", "new", "facke-demo")
    assert code == 2
    assert "exists already" in err
    assert (tmp_path / "facke-demo" / "README.md").read_text() == "mine"
    assert facke(capsys, "plugins", "new", "facke-demo", "--force")[0] == 0
    assert "# facke-demo" in (tmp_path / "facke-demo" / "README.md").read_text()


def test_without_copier_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "copier":
            raise ModuleNotFoundError("No module named 'copier'")
        return real(name, *rest)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtins, "__import__", missing)
    code, _, err = facke(capsys, "plugins", "new", "facke-demo")
    assert code == 4
    assert 'pip install "facke-cli[plugins]"' in err
    assert not any(tmp_path.iterdir())


def test_the_template_runs_nothing() -> None:
    text = (resources.files("facke_cli") / "template" / "copier.yml").read_text("utf-8")
    settings = [line for line in text.splitlines() if line.startswith("_")]
    assert {line.partition(":")[0] for line in settings} == {
        "_keep_trailing_newline",
        "_min_copier_version",
        "_subdirectory",
        "_templates_suffix",
    }


# -- check ---------------------------------------------------------------------------------------


def test_a_plugin_with_faults_is_refused_with_the_reasons(
    flawed: None, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = facke(capsys, "plugins", "check", "facke_flawed", "--json")
    assert code == 3
    report = json.loads(out)
    failed = {one["check"]: one for one in report["checks"] if one["result"] == "failed"}
    assert report["failed"] == len(failed)
    assert set(failed) == {
        "its target resolves",
        "the source matters",
        "every declared condition matters",
    }
    assert failed["the source matters"]["subject"] == "method invert"
    assert failed["the source matters"]["reason"].endswith("Use inputs.identity or inputs.source.")
    assert "no_such" in failed["its target resolves"]["reason"]
    assert report["passed"] > 20

    code, out, _ = facke(capsys, "plugins", "check", "facke-broken")
    assert code == 3
    assert "failed: RuntimeError: compiled against another CUDA" in out


def test_a_package_that_is_not_installed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = facke(capsys, "plugins", "check", "facke-gam")
    assert code == 2
    assert "Did you mean 'facke-gan'?" in err
    assert "pip install ./facke-gam" in err


def test_without_pytest_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "pytest" else find(name, *a)
    )
    code, _, err = facke(capsys, "plugins", "check", "facke-gan")
    assert code == 4
    assert 'pip install "facke-core[testing]"' in err
