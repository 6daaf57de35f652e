"""What is deprecated goes away in the version that was announced: the tests fail until it does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from packaging.version import Version

import facke_core

ROOT = Path(__file__).resolve().parent.parent
WORDING = re.compile(r"Deprecated since ([\d.]+), removed in ([\d.]+)\. Use .+ instead\.")


def faults(code: str, version: str) -> list[str]:
    """What is wrong with the deprecations of a module in this version."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "deprecated":
            message = ast.literal_eval(node.args[0])
            match = WORDING.fullmatch(message)
            if match is None:
                found.append(f"{node.lineno}: {message!r} does not say {WORDING.pattern!r}")
            elif Version(match[2]) <= max(Version(match[1]), Version(version)):
                found.append(f"{node.lineno}: remove it now: {message}")
    return found


def test_nothing_is_deprecated_for_longer_than_announced() -> None:
    found = {
        str(path.relative_to(ROOT)): wrong
        for path in ROOT.glob("packages/*/src/**/*.py")
        if "template" not in path.parts
        and (wrong := faults(path.read_text("utf-8"), facke_core.__version__))
    }
    assert found == {}


OLD = """
from typing_extensions import deprecated

@deprecated("Deprecated since 0.2, removed in 0.4. Use facke_core.load instead.")
def load_all(): ...
"""


@pytest.mark.parametrize("version", ["0.2.0", "0.3.1"])
def test_a_deprecation_may_stay_until_its_version(version: str) -> None:
    assert faults(OLD, version) == []


@pytest.mark.parametrize("version", ["0.4", "0.4.0", "0.4.1", "0.10.0", "1.0"])
def test_a_deprecation_expires(version: str) -> None:
    (fault,) = faults(OLD, version)
    assert fault.startswith("4: remove it now: Deprecated since 0.2")


def test_a_deprecation_that_expires_at_once_or_never_is_refused() -> None:
    assert faults(OLD.replace("in 0.4", "in 0.2"), "0.1.0")
    assert "does not say" in faults(OLD.replace(", removed in 0.4", ""), "0.2.0")[0]
