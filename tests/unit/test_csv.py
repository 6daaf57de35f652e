"""Tables that facke writes are computed by no spreadsheet, and read back as they were."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from facke_core.data.tables import csv_text, read_csv
from facke_core.jobs.swapping import Swap, _write_csv

FORMULAS = (
    "=HYPERLINK(1)", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1",
    "\uff1d1", "--x", "-", "=", "'=quoted already", "''-twice",
)  # fmt: skip
PLAIN = ("", "a", "-5", "+1.5", "-3e-4", "a=b", "'", "'a", "''", "it's", '1,5;"x"', "a\nb", " =1")


@pytest.mark.parametrize("cell", [*FORMULAS, *PLAIN])
def test_cells_come_back_and_begin_no_formula(tmp_path: Path, cell: str) -> None:
    file = tmp_path / "x.csv"
    file.write_text(csv_text(["a", "b"], [[cell, "x"], ["y", cell]]), "utf-8", newline="")
    columns, rows = read_csv(file, "x", strict=True)
    assert columns == ["a", "b"]
    assert [row for _, row in rows] == [{"a": cell, "b": "x"}, {"a": "y", "b": cell}]
    with file.open(encoding="utf-8", newline="") as stream:
        raw = [*csv.reader(stream)][1][0]
    assert raw == (f"'{cell}" if cell in FORMULAS else cell)


def test_numbers_stay_numbers_and_the_table_of_a_swap_is_quoted(tmp_path: Path) -> None:
    assert csv_text(["n"], [[-1], [None], [-0.5]]) == 'n\r\n-1\r\n""\r\n-0.5\r\n'
    swap = Swap(pair=0, source="=1+1.jpg", target="b.jpg", skipped="-x is no picture", seed=-1)
    _write_csv(tmp_path / "swaps.csv", [swap])
    text = (tmp_path / "swaps.csv").read_text("utf-8")
    assert "0,'=1+1.jpg,b.jpg," in text
    assert "'-x is no picture" in text
    assert ",-1," in text
    ((_, row),) = read_csv(tmp_path / "swaps.csv", "it")[1]
    assert (row["source"], row["skipped"]) == ("=1+1.jpg", "-x is no picture")
