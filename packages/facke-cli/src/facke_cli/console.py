"""What the commands print: reports on stdout, progress and messages on stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any


def emit(document: Any) -> None:
    """The one JSON document of a command with ``--json``."""
    import json

    write(json.dumps(document, indent=2))


def write(text: str) -> None:
    """A line of the report itself."""
    sys.stdout.write(text + "\n")


def say(text: str) -> None:
    """A message beside the report."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as they need; the last one is wrapped to the terminal."""
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


def _text(cell: object) -> str:
    return "-" if cell is None or cell == "" else str(cell)
