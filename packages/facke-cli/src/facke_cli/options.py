"""An option of a command is declared once, as a field of a dataclass.

A command is a function of such an object, and :func:`command` shows typer the fields as the
function's parameters::

    @dataclass(frozen=True, slots=True, kw_only=True)
    class GreetOptions:
        name: Annotated[str, typer.Argument(help="Whom.")]
        quiet: Quiet = False


    @command(GreetOptions)
    def greet(options: GreetOptions) -> None:
        \"\"\"Greet NAME.\"\"\"

Options that several commands have in the same words are the aliases below; several that belong
together are a base class (:class:`facke_cli.measuring.MeasuringOptions`).
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from facke_core.errors import UsageError

__all__ = ["AsJson", "Device", "Force", "JsonFile", "Quiet", "command", "settings"]

T = TypeVar("T")

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite OUT.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write everything here; - is the output."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing.")]


def command(options: type[T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """Make a function of an options object a function of the object's fields, for typer.

    Args:
        options: a dataclass. A field is a parameter: its annotation holds the ``typer.Option`` or
            ``typer.Argument``, and a field without default has to be given.
    """

    def decorate(function: Callable[[T], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def called(**values: Any) -> None:
            function(options(**values))

        # each field's annotation is resolved in the module of the class that declares it
        hints = get_type_hints(options, include_extras=True)
        parameters = inspect.signature(options).parameters.values()
        vars(called)["__signature__"] = inspect.Signature(
            [parameter.replace(annotation=hints[parameter.name]) for parameter in parameters]
        )
        return called

    return decorate


def settings(assignments: Sequence[str] | None) -> Mapping[str, Any]:
    """Return the sampler settings that ``--set KEY=VALUE`` asks for.

    Raises:
        ConfigError: a word is no assignment.
    """
    from facke_core.config import override

    return override({}, *(assignments or ()), schema=Mapping, where="sampler")


def check_apart(outputs: Mapping[str, Path | None], inputs: Iterable[Path | None]) -> None:
    """Refuse to write into an input, by whatever name, or into one place twice.

    Args:
        outputs: what is written, by option; None is not.
        inputs: what is read; None is not.

    Raises:
        UsageError: two of them are one file.
    """
    written = {name: path for name, path in outputs.items() if path is not None}
    before: dict[str, Path] = {}
    for name, path in written.items():
        if any(_same(path, each) for each in inputs if each is not None):
            raise UsageError(
                f"{name} {path} is one of the inputs, and those are never changed. Choose another "
                "name."
            )
        for other, there in before.items():
            if _same(path, there):
                raise UsageError(
                    f"{other} and {name} are one file, {path}, and one would replace the other. "
                    "Choose another name."
                )
        before[name] = path


def _same(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except OSError:  # one is not there
        return os.path.realpath(a) == os.path.realpath(b)
