"""CSV files that people write: lists of pairs, and manifests of photographs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from facke_core._files import check_regular
from facke_core.errors import DataError

__all__: list[str] = []


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
            reader = csv.DictReader(stream, strict=strict)
            columns = list(reader.fieldnames or ())
            return columns, [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{called} cannot be read as CSV ({error}). Check the path and that it is UTF-8 text "
            "with commas."
        ) from error
