"""Reports and pairs: what is written can be read, compared, looked at and found again."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from swappers import all_pairs, dataset, evaluator, write_pairs, write_photos

from facke_core.errors import ConfigError, DataError
from facke_core.evaluation.html import cases_of, page, write_html
from facke_core.evaluation.metrics import frechet
from facke_core.evaluation.report import diff, read_reports, write_reports
from facke_core.jobs.pairs import PairSet, pairs_of_dataset, read_pairs


@pytest.fixture
def crops() -> PairSet:
    return pairs_of_dataset(dataset(), 20)


@pytest.fixture
def photos(tmp_path: Path) -> PairSet:
    return read_pairs(all_pairs(tmp_path, 4))


def test_reports_survive_the_disk(tmp_path: Path, crops: PairSet) -> None:
    report = evaluator("network", frechet()).run(crops)
    write_reports(tmp_path / "a.json", [report])
    (again,) = read_reports(tmp_path / "a.json")
    assert diff([report], [again], 0) == []
    assert again.environment["torch"]
    assert again.run["seconds"].keys() >= {"detect", "encode", "generate", "paste", "judge"}
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(DataError, match="no evaluation"):
        read_reports(tmp_path / "b.json")


def test_diff_names_the_place_and_ignores_times(crops: PairSet) -> None:
    report = evaluator().run(crops)
    loss = report.rows[3].values["id-loss"]
    assert loss is not None
    values = {**report.rows[3].values, "id-loss": loss + 1e-5}
    changed = [*report.rows[:3], replace(report.rows[3], values=values), *report.rows[4:]]
    other = replace(report, rows=changed, run={"seconds": {}}, environment={})
    assert [one.where for one in diff([report], [other])] == ["[0].rows[3].values.id-loss"]
    assert diff([report], [other], 1e-4) == []
    assert diff([report], [report, report])


def test_the_page_shows_the_ends_of_each_metric(crops: PairSet) -> None:
    one = evaluator("network", frechet())
    report = one.run(crops)
    cases = cases_of(one, crops, report)
    gain = cases["id-gain"]
    values = [case.row.values["id-gain"] for case in (*gain.worst, *reversed(gain.best))]
    assert values == sorted(values, key=lambda v: math.inf if v is None else v)
    assert len(gain.worst[0].pictures) == 3
    assert len(cases["recon-l1"].worst[0].pictures) == 2
    assert "frechet" not in cases
    text = page([replace(report, name="<b>")], [cases])
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    for outside in ("http://", "https://", "<script", 'src="/'):
        assert outside not in text
    assert text.count("<svg") == len(report.metrics) - 1 - 1  # frechet, expression-error


# -- pairs -----------------------------------------------------------------------------------------


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_html(tmp_path / "page.html", [])
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_rows_of_pictures_with_unusual_names_are_read_again(tmp_path: Path) -> None:
    write_photos(tmp_path, 2)
    (tmp_path / "0.png").rename(tmp_path / "a\u2028b.png")
    pairs = read_pairs(write_pairs(tmp_path / "p.csv", [("a\u2028b.png", "1.png")]))
    evaluator().run(pairs, out=tmp_path / "rows")
    report = evaluator().run(pairs, out=tmp_path / "rows", resume=True)
    assert report.rows[0].source == "a\u2028b.png"


def test_the_digest_follows_contents_order_and_people_not_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one = read_pairs(all_pairs(tmp_path / "a", 3))
    names = write_photos(tmp_path / "b", 3)
    for name in names:
        (tmp_path / "b" / name).rename(tmp_path / "b" / f"x{name}")
    pairs = [(f"x{a}", f"x{b}") for a in names for b in names if a != b]
    assert read_pairs(write_pairs(tmp_path / "b" / "p.csv", pairs)).digest == one.digest
    assert one.first(5).digest != one.digest
    person = [pair._replace(source=pair.source._replace(identity="one")) for pair in one.pairs]
    assert replace(one, pairs=person).digest != one.digest


def test_missing_pictures_and_columns_are_told_together(tmp_path: Path) -> None:
    write_photos(tmp_path, 1)
    file = write_pairs(tmp_path / "p.csv", [("0.png", "no.png"), ("gone.png", "0.png")])
    with pytest.raises(DataError, match=r"2 pictures .*line 2: no\.png .*line 3: gone\.png"):
        read_pairs(file)
    (tmp_path / "q.csv").write_text("source,tagret\n")
    with pytest.raises(DataError, match=r"no column 'target'.* mean 'tagret'"):
        read_pairs(tmp_path / "q.csv")
    (tmp_path / "q.csv").write_text("source,target\n")
    with pytest.raises(DataError, match="no pair"):
        read_pairs(tmp_path / "q.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'source', only: none"),
        ("source;target\na;b\n", "only: source;target. The first line has to name source,"),
        ('source,target\n"a,b\n', "cannot be read as CSV"),
        ("source,target\na\0,b\n", "line 2 holds the character NUL"),
    ],
)
def test_what_is_no_csv_is_told(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "p.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=re.escape(message)):
        read_pairs(file)


def test_pairs_of_a_dataset_are_of_different_people_and_repeatable() -> None:
    pairs = pairs_of_dataset(dataset(), 50, seed=3)
    assert len(pairs) == 50
    assert all(pair.source.identity != pair.target.identity for pair in pairs.pairs)
    assert pairs.digest == pairs_of_dataset(dataset(), 50, seed=3).digest
    assert pairs.digest != pairs_of_dataset(dataset(), 50, seed=4).digest


def test_the_protocol_is_plain_json(photos: PairSet) -> None:
    protocol = evaluator(seed=5).protocol(photos)
    assert json.loads(json.dumps(protocol)) == protocol
    assert protocol["pairs"]["sha256"] == photos.digest
    assert protocol["encoders"]["judge"]["settings"] == {"name": "colours-1"}
