"""The command ``facke plugins new``."""

from __future__ import annotations

import importlib.util
import keyword
import re
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from facke_cli.console import write
from facke_core import __version__
from facke_core.errors import UnavailableError, UsageError
from facke_core.plugins.registry import default_registry

__all__ = ["generate", "plugins_new"]

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def plugins_new(
    name: Annotated[str, typer.Argument(help="Name of the package, such as facke-demo.")],
    method: Annotated[
        str, typer.Option(help="Value of --method; default: NAME without facke-.")
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Write into a folder that has files in it.")
    ] = False,
) -> None:
    """Write the folder NAME: a plugin with a working method, its tests, and all that a package
    needs."""
    method = method or name.removeprefix("facke-")
    for what, value in (("name", name), ("method", method)):
        if not _NAME.fullmatch(value):
            raise UsageError(
                f"The {what} {value!r} cannot be used: it has to be lower-case letters and digits, "
                "with hyphens between them, and to begin with a letter, such as facke-demo."
            )
    _check_free(name, method, force=force)
    folder = Path(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not force:
        raise UsageError(f"{folder} exists already. Choose another name, or add --force.")
    generate(folder, name=name, method=method)
    write(f"Wrote {folder}. Now:")
    for line in (
        f"pip install ./{folder}",
        f"facke plugins check {name}",
        f"facke swap --method {method} sample:collins sample:hopper -o {method}.png",
    ):
        write(f"  {line}")


def _check_free(name: str, method: str, *, force: bool) -> None:
    """Refuse a package that cannot be imported or hides another, and a method of another plugin."""
    package = _package(name)
    if keyword.iskeyword(package):
        raise UsageError(f"{package!r} is a word of Python's, and no package. Try facke-{package}.")
    if importlib.util.find_spec(package) is not None and not force:
        raise UsageError(
            f"A package {package!r} is installed already, and the new one would hide it. Choose "
            "another name, or add --force if it is this plugin."
        )
    registry = default_registry()
    if method in registry.methods:
        owner = registry.methods.owners[method]
        if owner != name:
            raise UsageError(
                f"The plugin {owner!r} has a method {method!r} already. Choose another name with "
                "--method NAME."
            )


def _package(name: str) -> str:
    return name.replace("-", "_")


def generate(folder: Path, *, name: str, method: str) -> None:
    """Fill in the template; files that are there already are replaced.

    Raises:
        UnavailableError: copier is not installed.
        UsageError: the folder cannot be written.
    """
    try:
        from copier import run_copy
        from copier.errors import CopierError
    except ImportError as error:
        raise UnavailableError(
            f"facke plugins new fills in a template with copier, which cannot be imported: {error}."
            ' Run: pip install "facke-cli[plugins]"'
        ) from error
    major, minor, *_ = __version__.split(".")
    data = {
        "name": name,
        "method": method,
        "package": _package(name),
        "classname": "".join(part.capitalize() for part in method.split("-")),
        "core": f">={major}.{minor},<{major}.{int(minor) + 1}",
    }
    with resources.as_file(resources.files("facke_cli") / "template") as template:
        try:
            run_copy(str(template), folder, data=data, defaults=True, overwrite=True, quiet=True)
        except (CopierError, OSError) as error:
            raise UsageError(
                f"{folder} cannot be written: {error}. Choose another place."
            ) from error
