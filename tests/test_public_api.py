"""The names that others may use: listed in ``__all__``, and compared with the last snapshot."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOL: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "write_public_api.py"))
WRITE = "run: ./dev python tools/write_public_api.py"
MODULES = {
    ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in TOOL["sources"]().values()
    for package in folder.glob("facke_*")
    for path in package.rglob("*.py")
    if "template" not in path.parts
}


def is_public(module: str) -> bool:
    return not any(part.startswith("_") for part in module.split("."))


def offered(tree: ast.Module) -> list[str] | None:
    """``__all__`` of a module, if it has one."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "__all__":
            assert node.value is not None
            return list(ast.literal_eval(node.value))
    return None


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


# -- __all__ -------------------------------------------------------------------------------------


def test_every_public_module_says_what_it_offers() -> None:
    silent = [
        name
        for name, path in MODULES.items()
        if is_public(name) and offered(tree := parsed(path)) is None and len(tree.body) > 2
    ]
    assert silent == [], "write __all__ below the imports"


def uses(path: Path) -> list[tuple[str, str]]:
    """Each (module, name) that a file imports from facke."""
    return [
        (node.module, alias.name)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("facke_")
        for alias in node.names
        if node.module
    ]


def test_packages_and_examples_use_of_each_other_only_what_is_offered() -> None:
    """But the command line: it is pinned to its core exactly, and is core's own front."""
    everything = {name: offered(parsed(path)) or [] for name, path in MODULES.items()}
    files = [*MODULES.values(), *ROOT.glob("examples/*/**/*.py")]
    wrong = [
        f"{path.relative_to(ROOT)}: {module}.{name}"
        for path in files
        for module, name in uses(path)
        if module in MODULES
        and not {module.partition(".")[0], "facke_cli"} & {*path.parts}
        and not (
            is_public(module) and (name in everything[module] or f"{module}.{name}" in MODULES)
        )
    ]
    assert wrong == []


# -- the snapshot --------------------------------------------------------------------------------


def test_the_public_names_are_those_of_the_snapshot() -> None:
    before = TOOL["SNAPSHOT"].read_text("utf-8")
    now = TOOL["render"](TOOL["sources"]())
    if now != before:
        broken = TOOL["breaking"](before, now)
        kind = (
            "\n  ".join(["Breaking:", *broken])
            if broken
            else "Nothing that a caller uses is gone or called differently."
        )
        pytest.fail(f"The public names changed. {kind}\nIf that is meant, {WRITE}", pytrace=False)


PACKAGE = """
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["SIZE", "Crop", "Face", "Net", "_made", "load"]

SIZE = 224

@dataclass(frozen=True)
class Crop:
    size: int
    scale: float = 1.0

class Face(NamedTuple):
    box: int
    score: float

class Base: ...

class Net(Base):
    def forward(self, x: int, *, scale: int = 1) -> int: ...
    def _own(self) -> None: ...

def load(name: str, *, device: str = "cpu") -> Net: ...
def helper() -> None: ...
_made = load("a")
"""


def snapshot(folder: Path, code: str) -> str:
    (folder / "small").mkdir(parents=True)
    (folder / "small" / "__init__.py").write_text(code)
    text: str = TOOL["render"]({"small": folder})
    return text


def test_the_snapshot_has_a_line_for_each_public_name(tmp_path: Path) -> None:
    assert snapshot(tmp_path, PACKAGE) == (
        "# small\n"
        "class Crop:\n"
        "    def __init__(size: int, scale: float = 1.0) -> None: ...\n"
        "    scale: float\n"
        "    size: int\n"
        "class Face(NamedTuple):\n"
        "    def __init__(box: int, score: float) -> None: ...\n"
        "    box: int\n"
        "    score: float\n"
        "class Net(Base):\n"
        "    def forward(x: int, *, scale: int = 1) -> int: ...\n"
        "SIZE = 224\n"
        "_made = load('a')\n"
        "def load(name: str, *, device: str = 'cpu') -> Net: ...\n"
    )


@pytest.mark.parametrize(
    ("old", "new", "broken"),
    [
        ('"load"]', "]", "small.load: Public object was removed"),
        ("name: str, *", "name: str, token: str, *", "small.load(token): Parameter was added"),
        ('device: str = "cpu"', "device: str", "small.load(device): Parameter is now required"),
        ("device: str", "where: str", "small.load(device): Parameter was removed"),
        ("name: str, *,", "*, name: str,", "small.load(name): Parameter kind was changed"),
        ("def forward", "def run", "small.Net.forward: Public object was removed"),
        ("Net(Base)", "Net", "small.Net: Base class was removed"),
        ("size: int", "size: int\n    more: int", "small.Crop.__init__(more): Parameter was added"),
        ("    score: float", "", "small.Face.score: Public object was removed"),
        (
            "    box: int\n    score: float",
            "    score: float\n    box: int",
            "small.Face.__init__(box): Positional parameter was moved",
        ),
    ],
)
def test_a_breaking_change_is_called_one(tmp_path: Path, old: str, new: str, broken: str) -> None:
    before = snapshot(tmp_path / "before", PACKAGE)
    now = snapshot(tmp_path / "now", PACKAGE.replace(old, new, 1))
    found = TOOL["breaking"](before, now)
    assert any(line.startswith(broken) for line in found), found


@pytest.mark.parametrize(
    ("old", "new", "same_text"),
    [
        ('"load"]', '"helper", "load"]', False),
        ('device: str = "cpu"', 'device: str = "cpu", token: str = ""', False),
        ("SIZE = 224", "SIZE = 256", False),
        ("def _own", "def _other", True),
        ("def helper", "def assistant", True),
    ],
)
def test_other_changes_break_nothing(tmp_path: Path, old: str, new: str, same_text: bool) -> None:
    before = snapshot(tmp_path / "before", PACKAGE)
    now = snapshot(tmp_path / "now", PACKAGE.replace(old, new, 1))
    assert TOOL["breaking"](before, now) == []
    assert (before == now) is same_text


def test_a_module_that_is_gone_is_breaking() -> None:
    assert TOOL["breaking"]("# a\nx = 1\n\n# b\ny = 1\n", "# a\nx = 1\n") == [
        "b: the module has no public name any more"
    ]


def test_what_facke_core_offers_is_offered_once() -> None:
    """Whoever wants ``SwapInputs`` imports it from ``facke_core``: there is one way to say it."""
    core = offered(parsed(MODULES["facke_core"])) or []
    again = [
        f"{module}.{name}"
        for module, path in MODULES.items()
        if module.startswith("facke_core.") and is_public(module)
        for name in offered(parsed(path)) or []
        if name in core and module != "facke_core.testing"
    ]
    assert again == []
