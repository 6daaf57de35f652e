"""The ``facke`` command finds its subcommands, prints their errors and sets the exit code.

The first word is looked up by hand and the rest is left to typer, so that ``facke --help`` and
``facke --version`` import neither typer nor anything heavy.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any, TextIO

from facke_cli.advice import command_of, speak_for
from facke_cli.console import plain, say, write
from facke_cli.ending import (
    Stopped,
    Unwritten,
    flush,
    go_on,
    hear_signals,
    of_the_machine,
    open_streams,
)
from facke_core.errors import (
    FackeError,
    FackeWarning,
    LicenseWarning,
    UnknownNameError,
    UsageError,
    did_you_mean,
)
from facke_core.plugins.registry import GROUP, Registry, default_registry
from facke_core.plugins.specs import CommandSpec

__all__ = ["main", "run"]

OWN = {
    "swap": "Put the identity of one face on another picture.",
    "faces": "List and number the faces of a picture.",
    "inspect": "Tell what a picture or a clip says about its own making.",
    "plan": "Find the people of a clip, to say who becomes whom.",
    "verify-media": "Compare a clip with what was made of it.",
    "methods": "List the installed methods.",
    "plugins": "List the installed plugins, and those that failed.",
    "prepare": "Make a dataset from photographs of people.",
    "train": "Train a recipe on a dataset.",
    "evaluate": "Measure weights on pairs of pictures.",
    "matrix": "Draw sources against targets, or pairs against methods.",
    "weights": "Convert, publish, fetch, check and export weights.",
    "doctor": "Check the installation and say how to repair it.",
}
GROUPS = {
    "evaluate": {
        "run": "Measure weights; meant where no command is named.",
        "diff": "Say where two reports differ.",
        "video": "Measure how steady a clip is, and what was made of it.",
        "scan": "Choose among the checkpoints of a run, as the paper.",
    },
    "weights": {
        "convert": "Read a checkpoint of the original systems, without executing anything in it.",
        "push": "Publish a folder of weights on the Hugging Face Hub.",
        "pull": "Fetch weights from the Hub.",
        "verify": "Check weights against their digests and golden tensors.",
        "list": "List known weights and their licences.",
        "export": "Write the generator as a graph for other runtimes.",
    },
    "plugins": {
        "new": "Begin a plugin package of your own.",
        "check": "Run the conformance kit on a plugin.",
    },
}
"""The commands of two words. ``facke plugins`` alone is a command too."""
DEFAULTS = {"evaluate": "run"}
"""A group has a default command here if one is meant where the second word is none of them."""
PLAIN = {"methods", "plugins"}
"""These are called without typer where no word follows: it takes longer to load than they run."""
HELP_WORDS = ("--help", "-h", "help")

HELP = """\
Usage: facke [OPTIONS] COMMAND [ARGS]...

  Swap faces in pictures with generative models.

  Try: facke swap sample:collins sample:hopper -o out.png

Options:
  --version   Show the versions of facke's packages and exit.
  --debug     Show the traceback of an error, and all warnings.
  -h, --help  Show this message and exit. Also after a command.

Commands:
"""


def main(arguments: Sequence[str]) -> int:
    """Run ``facke`` with these arguments and return its exit code.

    0 done, 1 an unexpected fault, 2 wrong usage or bad input, 3 failed verification, 4 something
    is missing, 128 and a signal's number: stopped by it (130 by SIGINT).
    """
    speak_for()
    debug = "--debug" in arguments
    _show_warnings(everything=debug)
    # --debug is accepted anywhere, because it is added to a command that failed
    words = [word for word in arguments if word != "--debug"]
    Stopped.last, Stopped.resumes = None, False
    try:
        _dispatch(words)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        return _stopped(words) if code and Stopped.last else code
    except KeyboardInterrupt:
        return _stopped(words)
    except Exception as error:
        if Stopped.last:  # what was raised while it unwound, to a terminal that is gone
            return _stopped(words)
        if debug:
            import traceback

            say(traceback.format_exc().rstrip(), lines=True)
        if isinstance(error, FackeError):
            say(f"facke: {error}")
            return error.exit_code
        if isinstance(error, Unwritten):
            if not error.quiet:
                say(f"facke: {error}")
            return error.exit_code
        if known := of_the_machine(error):
            say(f"facke: {known}")
            return known.exit_code
        say(
            f"facke: unexpected {type(error).__name__}: {error}. "
            "This is a fault of facke or of a plugin; repeat with --debug to see where."
        )
        return 1
    return 0


def run() -> None:
    """Be the entry point of the ``facke`` script."""
    hear_signals()
    open_streams()
    code = main(sys.argv[1:])
    try:
        flush()
    except Unwritten as error:
        if not (code or error.quiet):
            say(f"facke: {error}")
        code = code or error.exit_code
    sys.exit(code)


def _stopped(words: list[str]) -> int:
    number = Stopped.last[0] if Stopped.last else signal.SIGINT
    say(f"facke: interrupted by {signal.Signals(number).name}.{go_on(words)}")
    return 128 + number


def _dispatch(words: list[str]) -> None:
    if not words or words[0] in HELP_WORDS:
        write(HELP + _command_list(), lines=True)
    elif words[0] == "--version":
        for name, version in installed_packages().items():
            write(f"{name} {version}")
    elif words[0].startswith("-"):
        raise UsageError(f"Unknown option {words[0]!r} before a command. See: facke --help")
    else:
        _run_words(words)


def _run_words(words: list[str]) -> None:
    first, rest = words[0], words[1:]
    commands = GROUPS.get(first, {})
    if rest and rest[0] in commands:
        _run(_member(first, rest[0]), rest[1:], first)
    elif first not in GROUPS or _is_command(first, rest):
        _run(_find(first), rest)
    elif rest and rest[0] in HELP_WORDS:
        write(_help_of(first), lines=True)
    elif first in DEFAULTS:
        _run_default(first, rest)
    elif not rest:
        write(_help_of(first), lines=True)
    else:
        raise UsageError(
            f"Unknown command {f'{first} {rest[0]}'!r}.{did_you_mean(rest[0], commands)} "
            f"Commands: {', '.join(f'{first} {name}' for name in commands)}."
        )


def _run_default(group: str, words: list[str]) -> None:
    """Run the default command. If it does not know the first word either, both are told."""
    try:
        _run(_member(group, DEFAULTS[group]), list(words), group)  # which the parser empties
    except UnknownNameError as error:
        if hint := words and did_you_mean(words[0], GROUPS[group]):
            raise UnknownNameError(
                f"{error} There is no command {f'{group} {words[0]}'!r} either.{hint}"
            ) from error
        raise


def _member(group: str, name: str) -> CommandSpec:
    target = f"facke_cli.commands.{group}_{name}:{group}_{name}"
    return CommandSpec(name=name, target=target, help=GROUPS[group][name])


def _help_of(group: str) -> str:
    default = DEFAULTS.get(group)
    usage = f"Usage: facke {group} {'[COMMAND]' if default else 'COMMAND'} [ARGS]..."
    about = [f"  {OWN[group]}"]
    if default:
        about.append(
            f"  Without a command, {default} is meant; see: facke {group} {default} --help"
        )
    listed = "\n".join(f"  {name:<8}  {text}" for name, text in GROUPS[group].items())
    return "\n\n".join([usage, *about, f"Commands:\n{listed}"])


def _is_command(first: str, rest: list[str]) -> bool:
    """Tell whether a group is meant as a command itself, which takes options only."""
    return first == "plugins" and (not rest or rest[0].startswith("-"))


def _own() -> list[CommandSpec]:
    return [CommandSpec(name=name, target=_target(name), help=text) for name, text in OWN.items()]


def _target(name: str) -> str:
    module = name.replace("-", "_")
    return f"facke_cli.commands.{module}:{module}"


def _command_list() -> str:
    plugins = default_registry().commands
    specs = [*_own(), *(plugins[name] for name in plugins if not _is_own(name))]
    width = max(len(spec.name) for spec in specs)
    return "\n".join(f"  {spec.name:<{width}}  {plain(spec.help)}" for spec in specs)


def _is_own(name: str) -> bool:
    return name in OWN or name == "help"


def taken_names(registry: Registry) -> dict[str, str]:
    """Find plugins' commands that have the name of one of facke's own, which is the one that runs;
    plugin -> what is wrong."""
    faults: dict[str, str] = {}
    for name, plugin in registry.commands.owners.items():
        if _is_own(name):
            before = f"{faults[plugin]} " if plugin in faults else ""
            faults[plugin] = (
                f"{before}The plugin {plugin!r} offers the command {name!r}, a name that facke "
                "keeps for itself. Rename the command in the plugin."
            )
    return faults


def _find(name: str) -> CommandSpec:
    """Find facke's own command, or a plugin's: only then are plugins looked for."""
    own = {spec.name: spec for spec in _own()}
    if name in own:
        return own[name]
    registry = default_registry()
    known = own | registry.commands
    if name in known:
        return known[name]
    message = f"Unknown command {name!r}.{did_you_mean(name, known)} Commands: {', '.join(known)}."
    if registry.failures:
        message += " Some plugins failed to load; see: facke plugins"
    raise UnknownNameError(message)


def _run(spec: CommandSpec, words: list[str], group: str = "") -> None:
    """Import the function that ``spec`` names and let typer call it."""
    try:
        os.getcwd()
    except OSError as error:  # with which torch's libraries end the process
        raise UsageError(
            "The folder in which facke was called is gone. Change to another one."
        ) from error
    function = default_registry().resolve(spec.target)
    if spec.name in PLAIN and not words:
        function()
        return
    command = command_of(spec.name, function)
    speak_for(command, function)
    import typer

    program = " ".join(filter(None, ("facke", group, spec.name)))
    usage_error: Any = typer.BadParameter.__base__
    try:
        with command.make_context(program, _repeated(command, words)) as context:
            command.invoke(context)
    except typer.Exit as end:
        raise SystemExit(end.exit_code) from None
    except usage_error as error:
        error.message = plain(error.message)
        text = io.StringIO()
        error.show(text)
        say(text.getvalue().rstrip(), lines=True)
        raise SystemExit(error.exit_code) from None


def _repeated(command: Any, words: list[str]) -> list[str]:
    """Write ``--sources a b`` as ``--sources a --sources b``.

    The words after an option that can be repeated are its own, in commands that take none.
    """
    if any(parameter.param_type_name == "argument" for parameter in command.params):
        return words
    several = {
        name for parameter in command.params if parameter.multiple for name in parameter.opts
    }
    spread: list[str] = []
    option, taken = "", False
    for word in words:
        if word.startswith("-"):
            option, taken = word if word in several else "", False
        elif option and taken:
            spread.append(option)
        else:
            taken = True
        spread.append(word)
    return spread


def installed_packages() -> dict[str, str]:
    """Return the versions of facke-cli, facke-core and every distribution with a facke plugin."""
    from importlib.metadata import PackageNotFoundError, entry_points, version

    plugins = {entry.dist.name for entry in entry_points(group=GROUP) if entry.dist}
    versions = {}
    for name in ["facke-cli", "facke-core", *sorted(plugins - {"facke-cli", "facke-core"})]:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that is not installed
            continue
    return versions


def _show_warnings(*, everything: bool) -> None:
    """Show facke's own warnings as one line each, and those of libraries with ``--debug`` only."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, LicenseWarning):
            from facke_core.weights.licenses import first_time

            if first_time(str(message)):
                say(f"facke: note: {message} See: facke weights list --licences")
        elif issubclass(category, FackeWarning):
            say(f"facke: warning: {message}")
        elif everything:
            say(warnings.formatwarning(message, category, filename, lineno, line).rstrip())

    warnings.showwarning = show
