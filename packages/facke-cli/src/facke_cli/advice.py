"""Core's advice in the words of the command line.

Core knows no options. It names an argument of Python between backquotes: "Continue it with
`resume=True`". Here such a term becomes the option that sets this argument, "Continue it with
--resume": the running command has a parameter of that name, and typer knows its option. A command
whose parameters are called otherwise says so in ``TERMS`` of its module. A whole call becomes the
command that makes it. What cannot be said in options stays as it is.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["command_of", "in_options", "speak_for"]

CALLS = {"convert": "weights convert", "prepare": "prepare"}
"""Function of core -> the command that calls it."""
LOAD = "facke swap SOURCE TARGET -o OUT.png --weights"
"""The command that uses weights as ``load`` does."""

_TERM = re.compile(r"`([^`\n]+)`")
_spoken_for: dict[str, Any] = {}


def command_of(name: str, function: Callable[..., Any]) -> Any:
    """Return the command that typer makes of a function."""
    import typer

    # plain help and errors: rich ones cost more than the rest of a short command
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command(name)(function)
    return typer.main.get_command(app)


def speak_for(command: Any = None, function: Callable[..., Any] | None = None) -> None:
    """Name the options of this command from now on; without one, none."""
    _spoken_for.clear()
    if command is not None:
        _spoken_for.update(_named(command, getattr(function, "__module__", "")))


def in_options(text: str) -> str:
    """Return ``text`` with the arguments that it names as options of the running command."""
    return _TERM.sub(lambda match: _said(match[1]) or match[0], text)


def _named(command: Any, module: str) -> dict[str, Any]:
    """Map arguments of core to the command's parameters."""
    own = {each.name: each for each in command.params if each.param_type_name == "option"}
    terms: Mapping[str, str] = getattr(sys.modules.get(module), "TERMS", {})
    return own | {core: own[name] for core, name in terms.items()}


def _said(term: str) -> str:
    """Say a term in options; return an empty string if that cannot be."""
    if term.isidentifier():
        return _option(_spoken_for[term]) if term in _spoken_for else ""
    try:
        call = ast.parse(f"_({term})", mode="eval").body
        return _of_arguments(call) if isinstance(call, ast.Call) else ""
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # no Python, no plain value
        return ""


def _of_arguments(call: ast.Call) -> str:
    """Say what ``call`` is given in options: arguments with names, or one call."""
    if not call.args:
        return _keywords(call.keywords, _spoken_for)
    inner = call.args[0]
    if len(call.args) > 1 or not (isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name)):
        return ""
    name = inner.func.id
    places = [_word(value) for value in inner.args]
    if name == "load":
        return " ".join([LOAD, *places])
    if name not in CALLS:
        return ""
    module = f"facke_cli.commands.{CALLS[name].replace(' ', '_')}"
    function = getattr(import_module(module), module.rpartition(".")[2])
    options = _keywords(inner.keywords, _named(command_of(name, function), module))
    if inner.keywords and not options:
        return ""
    return " ".join(filter(None, ["facke", CALLS[name], *places, options]))


def _keywords(keywords: Iterable[ast.keyword], known: Mapping[str, Any]) -> str:
    words = []
    for keyword in keywords:
        if keyword.arg is None or keyword.arg not in known:
            return ""
        words += _option_with(known[keyword.arg], keyword.value)
    return " ".join(words)


def _option(parameter: Any) -> str:
    return str(max(parameter.opts, key=len))


def _option_with(parameter: Any, value: ast.expr) -> list[str]:
    """Return the option and its value, as often as it takes."""
    option = _option(parameter)
    if parameter.is_flag:
        return [option]
    if isinstance(value, ast.Constant) and value.value is ...:
        return [option, parameter.metavar or parameter.name.upper()]
    if parameter.multiple and isinstance(value, ast.List):
        return [word for element in value.elts for word in (option, _word(element))]
    return [option, _word(value)]


def _word(value: ast.expr) -> str:
    """Write a value as a shell takes it; a name stands for itself."""
    if isinstance(value, ast.Name):
        return value.id
    plain = ast.literal_eval(value)
    return shlex.quote(plain if isinstance(plain, str) else json.dumps(plain))
