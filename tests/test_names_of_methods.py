"""Core treats all methods alike: no code of it knows one by name, or a plugin by its package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import facke_core
from facke_core import default_registry
from facke_core.faces.templates import TEMPLATE_SETS, TEMPLATES

CORE = Path(facke_core.__file__).parent
PLUGINS = ("facke-gan", "facke-vae", "facke-diffusion")
ALLOWED = {
    "convert/kinds.py": "how the original cut its crops, and who published the encoder",
    "data/pairs.py": "a rule of drawing pairs, called after the paper that has it",
    "faces/templates.py": "templates, called after the paper that has them",
    "plugins/core.py": "whose checkpoint a converter reads",
}
CONDITIONS = ("timestep", "kernels")
"""Those of shipped methods and examples that are no business of core's."""


ORDINARY = {"warp", "fuse"}
"""Methods whose name is an ordinary word as well, or part of one."""


def words(code: str) -> Iterator[str]:
    """Names and strings of a module, without comments, docstrings and names of templates."""
    tree = ast.parse(code)
    expressions = (node for node in ast.walk(tree) if isinstance(node, ast.Expr))
    documentation = {id(node.value) for node in expressions}
    for node in ast.walk(tree):
        written = node.value if isinstance(node, ast.Constant) else None
        if isinstance(written, str) and id(node) not in documentation:
            yield written
        for field in ("id", "attr", "arg", "name", "asname"):
            if isinstance(word := getattr(node, field, None), str):
                yield word


def offences(code: str, names: list[str]) -> list[str]:
    templates = sorted({*TEMPLATES, *TEMPLATE_SETS} - {*names}, key=len, reverse=True)
    found = []
    for word in words(code):
        plain = word.lower()
        for template in templates:
            plain = plain.replace(template, "")
        if any(name in plain.replace("-", "_") for name in names):
            found.append(word)
    return found


def methods() -> list[str]:
    owners = default_registry().methods.owners.items()
    names = {name.replace("-", "_") for name, plugin in owners if plugin in PLUGINS}
    return sorted(names - ORDINARY)


def test_no_code_of_core_names_a_method() -> None:
    assert len(methods()) >= 3
    found = {
        name: hits
        for path in sorted(CORE.rglob("*.py"))
        if (hits := offences(path.read_text("utf-8"), methods()))
        and (name := path.relative_to(CORE).as_posix()) not in ALLOWED
    }
    assert found == {}


@pytest.mark.parametrize("file", ALLOWED)
def test_what_is_allowed_is_needed(file: str) -> None:
    assert offences((CORE / file).read_text("utf-8"), methods())


def test_no_code_of_core_names_a_plugin_or_a_condition_of_its_own() -> None:
    packages = tuple(f"{plugin.replace('-', '_')}." for plugin in PLUGINS)
    found = [
        f"{path.relative_to(CORE)}: {word}"
        for path in sorted(CORE.rglob("*.py"))
        for word in words(path.read_text("utf-8"))
        if word.startswith(packages) or word in CONDITIONS
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    ["ILVR = 3", 'x.method == "simswap"', "def of_cvae(): ...", "import facke_vae.cvae as c"],
)
def test_a_planted_name_is_found(code: str) -> None:
    assert offences(code, methods())
    assert not offences(f'"""{code!r}"""', methods())
