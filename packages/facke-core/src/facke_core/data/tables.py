"""CSV files: lists of pairs and manifests that people write, and tables that facke writes.

Spreadsheets compute a cell that begins as a formula does, and a name of a file may begin so. facke
writes an apostrophe before it, which a spreadsheet takes for "this is text", and takes it away when
it reads.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from facke_core._files import check_regular
from facke_core.errors import DataError

__all__: list[str] = []
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""The beginning of a formula, the wide signs of East Asia included, or of one that is quoted."""


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a CSV whose cells no spreadsheet computes; :func:`read_csv` finds the same in it."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # \r\n, so that cells with either are quoted
    writer.writerow(columns)
    writer.writerows([_as_text(cell) for cell in row] for row in rows)
    return text.getvalue()


def _as_text(cell: object) -> object:
    if not isinstance(cell, str) or not _FORMULA.match(cell):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def _as_was(cell: Any) -> Any:
    # None where a row is short, and a list of what it has too much
    quoted = isinstance(cell, str) and cell.startswith("'") and _FORMULA.match(cell)
    return cell[1:] if quoted else cell


MAX_LINES, MAX_CHARACTERS = 1_000_000, 100_000_000
"""Lines and characters of a list; it is held in memory."""
MAX_COLUMNS = 256
"""Most columns, and most characters of the name of one: messages list them."""
MAX_VALUE = 10_000
"""Characters of a value; no path has so many."""


def _limited(stream: TextIO) -> Iterator[str]:
    """Yield the lines of a list.

    Raises:
        csv.Error: they are too many, or hold what no path can.
    """
    characters = 0
    lines = iter(partial(stream.readline, MAX_CHARACTERS + 1), "")
    for number, line in enumerate(lines, 1):
        characters += len(line)
        if number > MAX_LINES or characters > MAX_CHARACTERS:
            raise csv.Error(f"more than {MAX_LINES} lines or {MAX_CHARACTERS} characters")
        if "\0" in line:
            raise csv.Error(f"line {number} holds the character NUL")
        yield line


def read_csv(
    file: Path, called: str, *, strict: bool = False
) -> tuple[Sequence[str], list[tuple[int, dict[str, str]]]]:
    """Read a CSV in UTF-8 whose first line names the columns.

    Args:
        file: the CSV.
        called: what messages call it.
        strict: refuse quotes that do not end where a value does.

    Returns:
        The columns, and each row as its line, from 2, and column -> value; a value that a short
        row lacks is None.

    Raises:
        DataError: it cannot be read.
    """
    try:
        check_regular(file)
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(_limited(stream), strict=strict)
            columns = list(reader.fieldnames or ())
            named = [column for column in columns if column]
            if len(named) > MAX_COLUMNS or any(len(name) > MAX_COLUMNS for name in named):
                raise csv.Error(
                    f"its first line names more than {MAX_COLUMNS} columns, or one by more than "
                    f"{MAX_COLUMNS} characters"
                )
            if len(set(named)) < len(named):
                raise csv.Error("two of its columns have one name")
            rows = []
            for row in reader:
                if any(row.pop(None, ())):
                    raise csv.Error(f"line {reader.line_num} has more values than columns")
                if any(len(value or "") > MAX_VALUE for value in row.values()):
                    raise csv.Error(
                        f"line {reader.line_num} has a value of over {MAX_VALUE} characters"
                    )
                rows.append((reader.line_num, {key: _as_was(cell) for key, cell in row.items()}))
            return columns, rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{called} cannot be read as CSV ({error}). Check the path and that it is UTF-8 text "
            "with commas."
        ) from error
