"""What the commands print: reports on stdout, progress and messages on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from facke_cli.advice import in_options

if TYPE_CHECKING:
    from pathlib import Path

    from facke_core.types import Progress

__all__ = [
    "STDOUT",
    "bars_on_terminals",
    "count",
    "emit",
    "progress",
    "put",
    "say",
    "table",
    "write",
]

STDOUT = "-"
"""This word in the place of a file's name means the standard output."""
SECONDS = 5.0
"""Time between two lines of progress, in seconds."""


def put(document: Mapping[str, Any], file: Path) -> None:
    """Write the JSON document of a command to the file that ``--json`` names, or to stdout.

    Raises:
        ConfigError: the folder cannot be written.
    """
    from facke_core.config import write_json

    if str(file) == STDOUT:
        emit(document)
    else:
        write_json(file, document)


def emit(document: Any) -> None:
    """Print the one JSON document of a command with ``--json``."""
    import json

    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def write(text: str) -> None:
    """Print a line of the report itself, with core's advice in options."""
    sys.stdout.write(in_options(text) + "\n")


def say(text: str) -> None:
    """Print a message beside the report, with core's advice in options."""
    sys.stderr.write(in_options(text) + "\n")
    sys.stderr.flush()


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return columns as wide as they need; the last one is wrapped to the terminal."""
    import shutil
    import textwrap

    cells = [list(head), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head) - 1)]
    indent = sum(widths) + 2 * len(widths)
    room = max(shutil.get_terminal_size((100, 24)).columns - indent, 30)
    lines = []
    for row in cells:
        start = "".join(f"{cell:<{width + 2}}" for cell, width in zip(row, widths, strict=False))
        wrapped = textwrap.wrap(row[-1], room) or [""]
        lines.append(start + wrapped[0])
        lines += [" " * indent + more for more in wrapped[1:]]
    return "\n".join(line.rstrip() for line in lines)


def count(number: int, what: str) -> str:
    """Return ``1 face`` or ``2 faces``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _text(cell: object) -> str:
    return "-" if cell is None or cell == "" else str(cell)


@contextmanager
def progress() -> Iterator[Progress]:
    """Show progress on stderr: a bar on a terminal, a line now and then elsewhere."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks or bar.tasks[tasks[what]].finished:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield show


def _lines() -> Progress:
    said = time.monotonic()

    def show(what: str, done: int, total: int) -> None:
        nonlocal said
        if done == total or time.monotonic() - said > SECONDS:
            said = time.monotonic()
            say(f"{what} {done}/{total}")

    return show


def bars_on_terminals() -> None:
    """Keep the progress bars of ``huggingface_hub`` to terminals."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
