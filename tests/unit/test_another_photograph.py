"""The judge compares with another photograph of the source's person, where pairs name one."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from swappers import TEMPLATE, evaluator, judge, pipeline, portraits, write_photos

from facke_core.errors import DataError, UsageError
from facke_core.evaluation import metrics
from facke_core.evaluation.facke2022 import run_facke2022
from facke_core.evaluation.html import page
from facke_core.evaluation.report import diff, notes_of, read_reports, write_reports
from facke_core.evaluation.rows import unpack
from facke_core.evaluation.runner import Evaluator
from facke_core.images.io import read_image
from facke_core.jobs.pairs import key_of, read_pairs
from facke_core.testing import TinyDetector

PEOPLE = 4


def write(folder: Path, references: Sequence[int | None], *, who: bool = False) -> Path:
    """A CSV of all ordered pairs of people; ``other-N.png`` is another photograph of person N.

    The reference of source n is ``other-M.png``, M the n-th of ``references``, or none.
    """
    names = write_photos(folder, PEOPLE)
    for n, image in enumerate(portraits(PEOPLE, side=48)):
        pixels = (image * 0.8 + 20).round().byte()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"other-{n}.png")
    file = folder / "pairs.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["source", "target", "reference", *(["source_identity"] if who else [])])
        for n, source in enumerate(names):
            other = "" if references[n] is None else f"other-{references[n]}.png"
            person = [f"person {n}"] if who else []
            writer.writerows(
                [source, target, other, *person] for target in names if target != source
            )
    return file


def vector(path: Path) -> torch.Tensor:
    photo = read_image(path).image
    (face,) = TinyDetector(TEMPLATE)(photo)
    return judge().of_photo(photo, face, pipeline().alignment).double()


def test_identity_is_that_of_the_reference(tmp_path: Path) -> None:
    file = write(tmp_path, range(PEOPLE))
    report = evaluator("source").run(read_pairs(file))
    assert len(report.rows) == 12
    for row in report.rows:
        result = torch.from_numpy(unpack(row.vector).copy()).double()
        reference, target = vector(tmp_path / row.reference), vector(tmp_path / row.target)
        assert row.reference == f"other-{row.source}"
        assert row.values == pytest.approx(
            {
                **row.values,
                "id-retrieval": float(1 - result @ reference),
                "id-retrieval-l2": float((result - reference).norm()),
                "id-gain": float((result - target) @ reference),
            },
            abs=1e-5,
        )
    with_source = evaluator("source").run(read_pairs(write(tmp_path, [None] * PEOPLE)))
    for one, other in zip(report.rows, with_source.rows, strict=True):
        assert one.values["id-retrieval"] != other.values["id-retrieval"]
        assert one.values["id-loss"] == other.values["id-loss"]  # in the papers, of the source


@pytest.mark.parametrize("who", [False, True])
def test_sources_are_looked_for_among_the_references(tmp_path: Path, who: bool) -> None:
    """Each result is nearest to one reference, so of four whose it can be, one is right."""
    right: Counter[tuple[str, str]] = Counter()
    for references in ([0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]):
        report = evaluator("source").run(read_pairs(write(tmp_path, references, who=who)))
        for row in report.rows:
            right[row.source, row.target] += int(row.values["retrieval-top1"] or 0)
    assert set(right.values()) == {1}
    assert len(right) == 12


def test_a_person_without_a_reference_is_compared_with_the_source_and_counted(
    tmp_path: Path,
) -> None:
    pairs = read_pairs(write(tmp_path, [0, None, 2, 3]))
    report = evaluator("source").run(pairs)
    assert [picture.name for picture in pairs.compared] == [
        "other-0.png",
        "1.png",
        "other-2.png",
        "other-3.png",
    ]
    assert report.protocol["pairs"]["references"] == 9
    (note,) = [note for note in notes_of(report) if "reference" in note]
    assert note.startswith("the judge compares 9 results with another photograph of the source")
    assert "3 with the source itself" in note
    for row in report.rows:
        assert row.reference == ("" if row.source == "1.png" else f"other-{row.source}")
    whole = evaluator().run(read_pairs(write(tmp_path, range(PEOPLE))))
    assert "itself" not in " ".join(notes_of(whole))
    bare = Evaluator(pipeline(), [metrics.psnr()]).run(pairs)
    assert not any("reference" in note for note in notes_of(bare))


def test_the_report_and_the_page_keep_the_references(tmp_path: Path) -> None:
    report = evaluator("source").run(read_pairs(write(tmp_path, range(PEOPLE))))
    write_reports(tmp_path / "report.json", [report])
    (read,) = read_reports(tmp_path / "report.json")
    assert read.rows[0].reference == "other-0.png"
    assert diff([report], [read], 0) == []
    assert "the judge compares 12 results with another photograph" in page([read])


def test_another_reference_costs_its_own_pairs_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluator().run(read_pairs(write(tmp_path, range(PEOPLE))), out=out)
    pairs = read_pairs(write(tmp_path, [1, 0, None, 3], who=True))
    resumed = evaluator().run(pairs, out=out, resume=True)
    assert resumed.run["pairs_computed"] == 9
    assert diff([evaluator().run(pairs)], [resumed], 0) == []
    again = evaluator().run(pairs, out=out, resume=True)
    assert (again.run["pairs_computed"], diff([resumed], [again], 0)) == (0, [])


def test_digests_know_the_reference_and_swaps_do_not(tmp_path: Path) -> None:
    none, first, other = (
        read_pairs(write(tmp_path, references))
        for references in ([None] * PEOPLE, [0, None, None, None], [3, None, None, None])
    )
    assert len({none.digest, first.digest, other.digest}) == 3
    pairs = [some.pairs[0] for some in (none, first, other)]
    assert len({key_of(pair) for pair in pairs}) == 3
    assert len({key_of(pair[:2]) for pair in pairs}) == 1


@pytest.mark.parametrize("fault", ["black", "missing"])
def test_a_reference_that_shows_no_face_costs_its_pairs_where_one_judges(
    tmp_path: Path, fault: str
) -> None:
    file = write(tmp_path, range(PEOPLE))
    if fault == "black":
        Image.new("RGB", (48, 48)).save(tmp_path / "other-2.png")
        reason = "no face was found in the reference"
    else:
        (tmp_path / "other-2.png").unlink()
        reason = "the reference cannot be used: other-2.png cannot be read: No such file"
    report = evaluator().run(read_pairs(file))
    assert {row.source for row in report.rows if row.skipped} == {"2.png"}
    (told,) = report.skipped
    assert told.startswith(reason)
    unjudged = Evaluator(pipeline(), [metrics.psnr(), metrics.id_loss()]).run(read_pairs(file))
    assert unjudged.skipped == {}


def test_source_and_reference_are_one_person_whatever_the_order_of_the_lines(
    tmp_path: Path,
) -> None:
    write(tmp_path, range(PEOPLE))
    file = tmp_path / "chain.csv"
    lines = ["2.png,0.png,3.png", "1.png,0.png,other-1.png", "other-1.png,0.png,2.png"]
    for order in (lines, lines[::-1]):
        file.write_text("\n".join(["source,target,reference", *order]))
        pairs = read_pairs(file).pairs
        assert len({p.identity for pair in pairs for p in (pair.source, pair.compared)}) == 1
        assert pairs[0].target.identity == "0.png"


def test_a_reference_of_somebody_else_or_of_nobody_new_is_refused(tmp_path: Path) -> None:
    write(tmp_path, range(PEOPLE))
    file = tmp_path / "bad.csv"
    head = "source,target,reference,source_identity,target_identity"
    file.write_text(f"{head}\n0.png,1.png,2.png,ann,bob\n2.png,1.png,,eve,bob\n")
    with pytest.raises(DataError, match=r"2\.png shows 'ann' by line 2, and 'eve' by line 3"):
        read_pairs(file)
    file.write_text(f"{head}\n2.png,1.png,,eve,bob\n0.png,1.png,3.png,ann,bob\n3.png,0.png,2.png,,")
    with pytest.raises(DataError, match="Nobody is two people"):
        read_pairs(file)
    (tmp_path / "copy.png").write_bytes((tmp_path / "0.png").read_bytes())
    file.write_text(f"{head}\n0.png,1.png,copy.png,,\n")
    with pytest.raises(DataError, match=r"line 2: the reference copy\.png is the source itself"):
        read_pairs(file)


def test_the_scale_of_the_paper_says_that_it_does_not_use_them(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, range(PEOPLE)))
    report = run_facke2022(evaluator("source"), pairs)
    plain = run_facke2022(evaluator("source"), read_pairs(write(tmp_path, [None] * PEOPLE)))
    assert report.mean == plain.mean
    assert "not the references" in " ".join(report.notes)
    assert "references" not in " ".join(plain.notes)


def test_rows_with_other_references_only_are_rows_of_other_pairs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluator().run(read_pairs(write(tmp_path, range(PEOPLE))), out=out)
    with pytest.raises(UsageError, match="rows of other pairs"):
        evaluator().run(read_pairs(write(tmp_path, [None] * PEOPLE)), out=out, resume=True)
