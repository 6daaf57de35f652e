"""What holds the house together, in numbers: circles, arrows that run up, plugin machinery, names.

./dev python tools/house.py

A circle is a ring of files that import each other, by any kind of import: at the top, in a function
or for types only. ``__init__.py`` may offer names of files that import it, so its own arrows do not
count. ``tests/test_contracts.py`` holds these numbers to their limits.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "packages" / "facke-core" / "src" / "facke_core"
MACHINERY = ("hookspecs", "specs", "catalogue", "registry")
"""The files of ``facke_core/plugins`` that are about plugins in general."""


def packages() -> list[Path]:
    """The source folder of each of the five packages."""
    return sorted(ROOT.glob("packages/*/src/facke_*"))


def arrows(folders: Iterable[Path]) -> dict[str, set[str]]:
    """Module -> the modules of these packages that it imports, of whatever kind the import is."""
    files = {
        ".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for folder in folders
        for path in folder.rglob("*.py")
        if "template" not in path.parts
    }
    found: dict[str, set[str]] = {}
    for module, path in files.items():
        named = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                named |= inner & files.keys() or {node.module}
        public = path.name == "__init__.py"
        found[module] = set() if public else (named & files.keys()) - {module}
    return found


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The rings: groups of modules of which each reaches each other (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    rings: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            at = stack.index(module)
            ring = stack[at:]
            del stack[at:]
            if len(ring) > 1:
                rings.append(sorted(ring))

    for module in sorted(graph):
        if module not in index:
            visit(module)
    return rings


def layers() -> list[set[str]]:
    """The layers of core, from the top, as the import contract has them."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = config["tool"]["importlinter"]["contracts"]
    contract = next(contract for contract in contracts if contract["id"] == "layers")
    return [set(layer.split(" | ")) for layer in contract["layers"]]


def upward(graph: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """Arrows of core that do not run down, as (from, to)."""
    height = {name: -depth for depth, layer in enumerate(layers()) for name in layer}

    def room(module: str) -> str:
        return module.split(".")[1] if "." in module else ""

    return [
        (module, other)
        for module in sorted(graph)
        for other in sorted(graph[module])
        if module.startswith("facke_core.")
        and other.startswith("facke_core")
        and room(module) != room(other)
        and height.get(room(module), 0) <= height.get(room(other), 1)
    ]


def machinery() -> dict[str, int]:
    """File of the plugin machinery -> its lines, with docstrings and blank ones."""
    files = (CORE / "plugins" / f"{name}.py" for name in MACHINERY)
    return {file.name: len(file.read_text("utf-8").splitlines()) for file in files}


def machinery_code() -> int:
    """Lines of the plugin machinery that hold code: no docstring, no comment, not blank."""
    count = 0
    for name in MACHINERY:
        text = (CORE / "plugins" / f"{name}.py").read_text("utf-8")
        documentation: set[int] = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                documentation |= {*range(node.lineno, (node.end_lineno or node.lineno) + 1)}
        count += sum(
            bool(line.strip()) and not line.lstrip().startswith("#") and at not in documentation
            for at, line in enumerate(text.splitlines(), 1)
        )
    return count


def public_names() -> int:
    """How many names ``tests/public_api.txt`` promises."""
    lines = (ROOT / "tests" / "public_api.txt").read_text("utf-8").splitlines()
    promised = {
        (module, line.split("(")[0].split(" = ")[0].split(":")[0])
        for module, line in _with_headings(lines)
    }
    return len(promised)


def _with_headings(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    module = ""
    for line in lines:
        if line.startswith("# "):
            module = line
        elif line and not line.startswith(" "):
            yield module, line


def main() -> None:
    graph = arrows(packages())
    rings, up = circles(graph), upward(graph)
    print(f"{len(graph)} files, {sum(map(len, graph.values()))} arrows between them")
    print(f"{len(rings)} circles", *("  " + " <-> ".join(ring) for ring in rings), sep="\n")
    print(f"{len(up)} arrows of core run up", *(f"  {a} -> {b}" for a, b in up), sep="\n")
    lines = machinery()
    print(f"{sum(lines.values())} lines of plugin machinery, {machinery_code()} of code: {lines}")
    print(f"{public_names()} public names")


if __name__ == "__main__":
    main()
