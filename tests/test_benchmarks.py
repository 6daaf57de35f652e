"""The scripts of benchmarks/ have the options that they share, and leave the folder clean."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(
    path.stem for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")
)
WITH_PICTURES = {
    "evaluate_cost",
    "evaluate_london",
    "gallery",
    "identity_transfer",
    "ilvr_speed",
    "sets",
    "sheets",
    "tables",
}
"""What they measure lies in ``$FACKE_SHARED``."""
RUN = """
import contextlib, io, json, runpy, sys
folder, words = sys.argv[1], json.loads(sys.argv[2])
sys.path.insert(0, folder)
found = {}
for name, options in words.items():
    sys.argv = [f"{name}.py", *options]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_path(f"{folder}/{name}.py", run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code
    found[name] = [code, out.getvalue()]
print(json.dumps(found))
"""


def run_all(words: dict[str, list[str]], folder: Path, **environment: str) -> dict[str, Any]:
    """Script -> (exit code or message, what it printed). One process, so that torch is imported
    once; one that uses the machine's reference material may not."""
    command = [sys.executable, "-c", RUN, str(BENCHMARKS), json.dumps(words)]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"COLUMNS": "100"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == [], "written without being asked"
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def helped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    words = {name: ["--help"] for name in SCRIPTS}
    return run_all(words, tmp_path_factory.mktemp("help"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_is_quick_if_asked_and_writes_json(helped: dict[str, Any], name: str) -> None:
    code, text = helped[name]
    assert not code
    options = re.findall(r"^  (--[\w-]+)", text, re.MULTILINE)
    assert {"--quick", "--json"} <= set(options), text
    assert "within 50 s" in " ".join(text.split())


def test_without_the_reference_pictures_a_sentence_says_so(tmp_path: Path) -> None:
    words = {name: ["--quick"] for name in sorted(WITH_PICTURES)}
    found = run_all(words, tmp_path, FACKE_SHARED=str(tmp_path / "nowhere"))
    for name, (code, _) in found.items():
        assert str(code).startswith(f"{name}: "), code
        assert "manifest.csv" in code
        assert code.endswith("Set FACKE_SHARED to the folder that holds faces/.")


def test_the_documentation_has_the_values_that_the_paper_prints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import table_rows

    page = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    lines: list[tuple[str, ...]] = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in page.splitlines()
        if line.startswith("|")
    ]
    printed = {cells[0]: cells[1:] for cells in lines if len(cells) == 7}
    trained = {cells[0]: (cells[5], cells[7]) for cells in lines if len(cells) == 8}
    rows = {f"{n} {row.name}": row for n, some in table_rows.TABLES.items() for row in some}
    assert len(rows) == 18
    for name, row in rows.items():
        values, means = ([f"{x:.3f}" for x in side] for side in (row.paper, row.paper_mean))
        assert printed[name] == (*values, *means)
        assert trained[name] == (" / ".join(values), " / ".join(means))
        assert row.paper_mean == pytest.approx([32 * x for x in row.paper])
