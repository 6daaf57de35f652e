"""Write docs/cli.md from the commands themselves.

./dev python tools/write_cli_page.py
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from unittest import mock

from facke_cli import main as cli

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
HEAD = """\
# Command line

<!-- Written by tools/write_cli_page.py; the tests compare. Do not edit. -->

Plugins can add commands; these are facke's own. Exit codes: 0 done, 1 an unexpected fault (repeat
with `--debug`), 2 wrong usage or bad input, 3 weights or files failed verification, 4 a plugin,
device or dependency is missing, 128 and its number after a signal: 130 after SIGINT (Ctrl-C), 143
after SIGTERM, 129 after SIGHUP, 141 where the reader of a pipe has left.

SIGINT, SIGTERM and SIGHUP unwind a command: nothing half-made stays, and where it can go on it says
how. What is killed leaves the old content or the new one, and hidden files (`.facke-*`) that the
next call into the same place takes away. A place is for one job at a time: a second one is told the
process that is at work there.
"""


def render() -> str:
    """The page."""
    parts = [HEAD, _section("facke", [])]
    for name in cli.OWN:
        words = [[name], *([name, second] for second in cli.GROUPS.get(name, ()))]
        parts += [_section(f"facke {' '.join(each)}", each) for each in words]
    return "\n".join(parts)


def _section(title: str, command: list[str]) -> str:
    output = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "96", "LINES": "40", "NO_COLOR": "1"}),
        contextlib.redirect_stdout(output),
    ):
        assert cli.main([*command, "--help"]) == 0
    lines = "\n".join(line.rstrip() for line in output.getvalue().strip().splitlines())
    return f"## `{title}`\n\n```text\n{lines}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
