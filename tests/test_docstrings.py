"""Docstrings name what they are about, and so do local variables."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    path.relative_to(package.parent).as_posix(): path
    for package in sorted(ROOT.glob("packages/*/src/facke_*"))
    for path in sorted(package.rglob("*.py"))
}
HEADLESS = re.compile(r"(As|By|In|Of|See|So|Where|With)\b")
"""Words with which a docstring begins that has no subject."""
EMPTY_NAMES = {"found", "one"}
"""Names of local variables that say nothing."""
PLANTED = '''
"""Of a module."""

SIZE = 3
"""As large as this."""


def measure(paths):
    """See :func:`other`."""
    """No docstring: nothing stands before it."""
    one = len(paths)
    return [found for found in paths if (one := one + 1)]


class Box:
    """So far a box, and then
    something else."""

    side: int
    """Of the box."""
    name: str = "box"
    """Offset and other words that only begin alike."""

    def open(self) -> None:
        """Where it lies."""
        self.one = "an attribute"
'''


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring: of modules, classes, functions, and of assignments."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for before, statement in zip([None, *body], body, strict=False):
            owner = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            of_node = before is None and owner
            if not of_node and not isinstance(before, ast.Assign | ast.AnnAssign):
                continue
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                text = statement.value.value
                if isinstance(text, str):
                    yield statement.lineno, text.strip()


def headless(tree: ast.AST) -> list[str]:
    """The docstrings that have no subject, as ``LINE: first words``."""
    lines = [(line, text) for line, text in docstrings(tree) if HEADLESS.match(text)]
    return [f"{line}: {text.splitlines()[0]}" for line, text in sorted(lines)]


def empty_names(tree: ast.AST) -> list[str]:
    """The assignments to variables whose names say nothing, as ``LINE: name``."""
    names = [
        (node.lineno, node.id)
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]
    return [f"{line}: {name}" for line, name in sorted(names) if name in EMPTY_NAMES]


@pytest.mark.parametrize("name", SOURCES)
def test_docstrings_have_a_subject_and_locals_a_telling_name(name: str) -> None:
    tree = ast.parse(SOURCES[name].read_text("utf-8"))
    assert not headless(tree), f"Make these a sentence, or name the thing: {name}"
    assert not empty_names(tree), f"Call these by what they hold, such as path or face: {name}"


def test_planted_docstrings_are_found() -> None:
    assert headless(ast.parse(PLANTED)) == [
        "2: Of a module.",
        "5: As large as this.",
        "9: See :func:`other`.",
        "16: So far a box, and then",
        "20: Of the box.",
        "25: Where it lies.",
    ]


def test_planted_names_are_found() -> None:
    assert empty_names(ast.parse(PLANTED)) == ["11: one", "12: found", "12: one"]
