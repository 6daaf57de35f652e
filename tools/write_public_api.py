"""Write tests/public_api.txt: every public name of the five packages, with its signature.

./dev python tools/write_public_api.py

The text is made by static analysis (griffe); nothing of facke is imported. Below the heading of a
module are the names of its ``__all__``, as a Python stub. What facke-cli promises is its commands
and their options, in docs/cli.md, and of its modules two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import griffe

ROOT = Path(__file__).resolve().parent.parent
SNAPSHOT = ROOT / "tests" / "public_api.txt"
COLOUR = re.compile(r"\x1b\[[\d;]*m")
HEADING = re.compile(r"^# ([\w.]+)\n", flags=re.M)
COMMAND_LINE = {"facke_cli", "facke_cli.main", "facke_cli.samples"}
LONGEST = 60
"""Characters of a value that is shown; of a longer one only the type is promised."""


def sources() -> dict[str, Path]:
    """Each package -> the folder that has it."""
    return {path.name: path.parent for path in sorted(ROOT.glob("packages/*/src/facke_*"))}


def render(packages: Mapping[str, Path]) -> str:
    """The snapshot of these packages."""
    loader = griffe.GriffeLoader(
        search_paths=[str(folder) for folder in packages.values()], allow_inspection=False
    )
    loaded = [cast("griffe.Module", loader.load(name)) for name in packages]
    return "\n".join(
        f"# {module.path}\n" + "".join(f"{line}\n" for line in lines)
        for package in loaded
        for module in _modules(package)
        if (
            lines := [
                line
                for name in sorted(map(str, module.exports or ()))
                for line in _name(module, name)
            ]
        )
    )


def parse(snapshot: str) -> dict[str, griffe.Module]:
    """Each module's name -> what griffe reads in its part of a snapshot."""
    parts = HEADING.split(snapshot)[1:]
    return {
        name: griffe.visit(name, filepath=Path(f"{name}.pyi"), code=code)
        for name, code in zip(parts[::2], parts[1::2], strict=True)
    }


def breaking(old: str, new: str) -> list[str]:
    """What of ``old`` a caller does not find in ``new``, or has to call differently.

    griffe compares names, bases and parameters; of attributes neither types nor values.
    """
    before, now = parse(old), parse(new)
    gone = [f"{name}: the module has no public name any more" for name in before.keys() - now]
    changed = (
        f"{name}.{COLOUR.sub('', breakage.explain().partition(': ')[2])}"
        for name in before.keys() & now
        for breakage in griffe.find_breaking_changes(before[name], now[name])
    )
    return sorted([*gone, *changed])


def _modules(module: griffe.Module) -> Iterator[griffe.Module]:
    if module.package.name == "facke_cli" and module.path not in COMMAND_LINE:
        return
    yield module
    for name, child in sorted(module.modules.items()):
        if not name.startswith("_") and not child.is_alias:
            yield from _modules(child)


def _name(module: griffe.Module, name: str) -> Iterator[str]:
    member = module.members.get(name)
    if member is None:  # assigned in a way that griffe does not read
        yield f"{name} = ..."
    elif isinstance(member, griffe.Alias):
        yield f"{name} = {member.target_path}"
    elif isinstance(member, griffe.Class):
        bases = ", ".join(str(base) for base in member.bases)
        yield f"class {name}({bases}):" if bases else f"class {name}:"
        lines = [line for part in sorted(member.members) for line in _part(member, part)]
        if "NamedTuple" in bases:  # the order of the fields is a promise too
            fields = (_attribute(field, value=True) for field in member.attributes.values())
            lines.insert(0, f"def __init__({', '.join(fields)}) -> None: ...")
        yield from (f"    {line}" for line in lines or ["..."])
    elif isinstance(member, griffe.Function):
        yield from _function(module, member)
    elif isinstance(member, griffe.Attribute):
        yield _attribute(member, value=not name.startswith("__"))


def _part(owner: griffe.Class, name: str) -> Iterator[str]:
    part = owner.members[name]
    special = name.startswith("__") and name.endswith("__")
    if isinstance(part, griffe.Function) and (special or not name.startswith("_")):
        yield from _function(owner, part)
    elif isinstance(part, griffe.Attribute) and not name.startswith("_"):
        assigned = "class-attribute" in part.labels and "dataclass" not in owner.labels
        yield _attribute(part, value=assigned)


def _function(owner: griffe.Module | griffe.Class, function: griffe.Function) -> Iterator[str]:
    notes = [f"# {label}" for label in ("classmethod", "staticmethod") if label in function.labels]
    for one in owner.overloads.get(function.name) or [function]:
        yield " ".join([f"def {one.signature()}: ...", *notes])


def _attribute(attribute: griffe.Attribute, *, value: bool) -> str:
    line = attribute.name
    if attribute.annotation is not None:
        line += f": {attribute.annotation}"
    shown = " ".join(str(attribute.value).split()) if value and attribute.value is not None else ""
    if shown and len(shown) <= LONGEST:
        line += f" = {shown}"
    elif attribute.annotation is None:
        line += " = ..."
    return line


if __name__ == "__main__":
    SNAPSHOT.write_text(render(sources()), encoding="utf-8")
