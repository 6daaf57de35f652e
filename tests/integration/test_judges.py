"""Who judges, and by which photograph: ``facke evaluate`` on real people."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facke_core.identity import reid_0095

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def people(shared: Path, tmp_path: Path) -> Path:
    """A CSV: each of three people, neutral, on each other; smiling, they are the references."""
    with (shared / "faces" / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        london = [row for row in csv.DictReader(stream) if row["group"] == "london"]
    neutral = [row for row in london if row["path"].endswith("/neutral.jpg")][:3]
    (tmp_path / "faces").symlink_to(shared / "faces")
    lines = ["source,target,reference,source_identity,target_identity"]
    for source in neutral:
        name = f"faces/{source['path']}"
        other = name.replace("/neutral.jpg", "/smiling.jpg")
        lines += [
            f"{name},faces/{target['path']},{other},{source['identity']},{target['identity']}"
            for target in neutral
            if target is not source
        ]
    file = tmp_path / "people.csv"
    file.write_text("\n".join(lines))
    return file


def test_the_report_says_with_which_photograph_results_were_compared(
    facke: Callable[..., Any], people: Path
) -> None:
    words = ["--judge", "dlib-resnet29", "--allow-training-encoder"]
    command = ["evaluate", "simswap", *words, "--metrics", "id-gain,id-retrieval,retrieval-top1"]
    done = facke(*command, "--pairs", people, "--json", "a.json", "--html", "page.html")
    assert done.code == 0, done.err
    note = "the judge compares 6 results with another photograph of the source"
    assert note in done.out
    (report,) = json.loads(Path("a.json").read_text())["reports"]
    assert report["protocol"]["pairs"]["references"] == 6
    assert {Path(row["reference"]).name for row in report["rows"]} == {"smiling.jpg"}
    assert report["summary"]["retrieval-top1"]["value"] == 1
    page = Path("page.html").read_text()
    assert note in page
    assert "compared with faces/images" in page

    same = people.with_name("same.csv")
    lines = [line.split(",") for line in people.read_text().splitlines()]
    same.write_text("\n".join(",".join([a, b, *who]) for a, b, _, *who in lines))
    done = facke(*command, "--pairs", same, "--json", "b.json")
    assert "another photograph" not in done.out
    (flattered,) = json.loads(Path("b.json").read_text())["reports"]
    gains = [each["summary"]["id-gain"]["value"] for each in (report, flattered)]
    assert 0.1 < gains[0] < gains[1]  # the photograph itself is the easier one to resemble

    lines[1][2] = ""
    some = people.with_name("some.csv")
    some.write_text("\n".join(",".join(line) for line in lines))
    done = facke(*command, "--pairs", some)
    assert "compares 5 results with another photograph of the source, and 1 with" in done.out


@pytest.fixture
def publishers_files(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[Path, bytes]:
    """Where the judge's files are kept, and their content; they are not there yet."""
    for folder in ("benchmarks", "tests/unit"):
        monkeypatch.syspath_prepend(ROOT / folder)
    from irs import judge_ir

    contents = dict(zip(reid_0095.FILES, judge_ir(), strict=True))
    pins = {name: (len(x), hashlib.sha256(x).hexdigest()) for name, x in contents.items()}
    monkeypatch.setattr(reid_0095, "FILES", pins)
    monkeypatch.setenv("FACKE_CACHE", str(tmp_path / "cache"))
    return {tmp_path / "cache" / "reid-0095" / name: x for name, x in contents.items()}


def test_anybody_can_judge_with_what_was_fetched(
    facke: Callable[..., Any], people: Path, publishers_files: dict[Path, bytes]
) -> None:
    command = ["evaluate", "simswap", "--pairs", people, "--judge", "reid-0095"]
    command += ["--metrics", "id-gain,retrieval-top1"]
    done = facke(*command)
    assert (done.code, reid_0095.COMMAND in done.err) == (4, True)
    listed = facke("plugins")
    assert "reid-0095" in listed.out

    for path, content in publishers_files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    done = facke(*command, "--json", "a.json")
    assert done.code == 0, done.err
    (report,) = json.loads(Path("a.json").read_text())["reports"]
    judge = report["protocol"]["encoders"]["judge"]
    assert judge["settings"] == {"name": "reid-0095"}
    assert 0.1 < report["summary"]["id-gain"]["value"] < 0.8
    assert report["summary"]["retrieval-top1"]["value"] > 0.5
