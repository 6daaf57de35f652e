"""What the commands print: reports on stdout, progress and messages on stderr.

All of it goes through :func:`plain`, since names of files, licences and descriptions may come from
anybody: they cannot move the cursor, hide or reverse text, or look like a line of facke's own.
"""

from __future__ import annotations

import re
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
    "plain",
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
_CONTROL = re.compile(
    # of terminals; of the direction of text; ends of lines and tags that are not seen
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u202a-\u202e\u2066-\u2069\u2028\u2029\ufeff"
    "\U000e0000-\U000e007f]"
)
_OWN_LINE = re.compile(r"\n(?=\S)")


def plain(text: str, *, lines: bool = False) -> str:
    """Return ``text`` as a terminal can show it: control characters are written out, as ``\\x1b``.

    A new line may be indented, as in a list below a message; with ``lines``, which is for texts
    whose parts are plain, it may begin anywhere.
    """
    shown = _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
    return shown if lines else _OWN_LINE.sub(r"\\n", shown)


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

    sys.stdout.write(json.dumps(document, indent=2).replace("\x7f", "\\u007f") + "\n")


def write(text: str, *, lines: bool = False) -> None:
    """Print a line of the report itself, with core's advice in options; see :func:`plain`."""
    sys.stdout.write(in_options(plain(text, lines=lines)) + "\n")


def say(text: str, *, lines: bool = False) -> None:
    """Print a message beside the report, with core's advice in options; see :func:`plain`."""
    sys.stderr.write(in_options(plain(text, lines=lines)) + "\n")
    sys.stderr.flush()


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return columns as wide as they need; the last one is wrapped to the terminal. It is plain."""
    import shutil
    import textwrap

    cells = [[_text(cell) for cell in row] for row in (head, *rows)]
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
    return "-" if cell is None or cell == "" else plain(" ".join(str(cell).split("\n")))


@contextmanager
def progress(*, rate: bool = False) -> Iterator[Progress]:
    """Show progress on stderr: a bar on a terminal, a line now and then elsewhere; with ``rate``
    also how many a second, and the time that is left."""
    if not sys.stderr.isatty():
        yield _lines(rate=rate)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    name = TextColumn("{task.description}", markup=False)
    speed = [TextColumn("{task.fields[speed]}")] if rate else []
    columns = (name, BarColumn(), MofNCompleteColumn(), *speed, Remaining())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks or bar.tasks[tasks[what]].finished:
                tasks[what] = bar.add_task(plain(what), total=total, speed="")
            per_second = bar.tasks[tasks[what]].speed
            speed = f"{per_second:.1f}/s" if per_second else ""
            bar.update(tasks[what], completed=done, speed=speed)

        yield show


def _lines(*, rate: bool) -> Progress:
    said = began = time.monotonic()
    first: int | None = None

    def show(what: str, done: int, total: int) -> None:
        nonlocal said, first, began
        now = time.monotonic()
        if first is None:  # what was done before is not of this run
            first, began = done, now
        if done == total or now - said > SECONDS:
            said = now
            speed = (done - first) / (now - began) if now > began else 0.0
            more = f", {speed:.1f}/s, {(total - done) / speed:.0f} s left" if speed else ""
            say(f"{what} {done}/{total}{more if rate else ''}")

    return show


def bars_on_terminals() -> None:
    """Keep the progress bars of ``huggingface_hub`` to terminals."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
