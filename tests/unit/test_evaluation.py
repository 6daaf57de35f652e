"""The evaluator: planted swappers get their due, and nothing but the pairs decides the values."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from swappers import (
    all_pairs,
    colours,
    dataset,
    evaluator,
    judge,
    pipeline,
    write_pairs,
    write_photos,
)
from torch import Tensor

from facke_core.errors import DataError, FackeWarning, PluginError, UsageError
from facke_core.evaluation import metrics
from facke_core.evaluation.clock import STAGES
from facke_core.evaluation.judges import Recogniser, check_judge
from facke_core.evaluation.metrics import PerPair, frechet
from facke_core.evaluation.pictures import PictureStore
from facke_core.evaluation.report import diff, notes_of, table_of
from facke_core.evaluation.runner import Evaluator
from facke_core.jobs import engines
from facke_core.jobs.pairs import PairSet, pairs_of_dataset, read_pairs, read_same
from facke_core.plugins.registry import Registry
from facke_core.results import StageClock
from standins import FunctionDetector

HERE = str(Path(__file__).parent), str(Path(__file__).parent.parent)
"""Where ``swappers`` and ``standins`` lie."""


@pytest.fixture
def crops() -> PairSet:
    return pairs_of_dataset(dataset(), 20)


@pytest.fixture
def photos(tmp_path: Path) -> PairSet:
    return read_pairs(all_pairs(tmp_path, 4))


def means(report: Any) -> dict[str, float | None]:
    return {name: value.value for name, value in report.summary.items()}


# -- planted swappers ------------------------------------------------------------------------------


def test_a_copy_of_the_target_gains_nothing_and_changes_nothing(crops: PairSet) -> None:
    report = evaluator("target").run(crops)
    found = means(report)
    assert found["id-gain"] == found["pose-error"] == found["background"] == 0
    assert found["retrieval-top1"] == 0
    for row in report.rows:
        one, other = row.values["id-retrieval"], row.values["id-retrieval-l2"]
        assert one is not None
        assert other is not None
        assert other**2 == pytest.approx(2 * one, rel=1e-5)
        assert one > 0.01


def test_a_copy_of_the_source_has_its_whole_identity(crops: PairSet) -> None:
    found = means(evaluator("source").run(crops))
    assert found["id-retrieval"] == pytest.approx(0, abs=1e-6)
    assert found["id-retrieval-l2"] == pytest.approx(0, abs=1e-3)
    assert found["retrieval-top1"] == found["retrieval-top5"] == 1
    assert found["id-gain"] is not None
    assert found["id-gain"] > 0.1
    assert found["background"] is not None
    assert found["background"] > 0.01


@pytest.mark.parametrize("what", ["target", "source"])
def test_a_perfect_self_swap_has_no_error(crops: PairSet, what: str) -> None:
    found = means(evaluator(what).run(crops))
    assert (found["recon-l1"], found["psnr"]) == (0, metrics.MAX_PSNR)
    assert found["ssim"] == pytest.approx(1)


def test_the_error_of_a_self_swap_is_that_of_its_crop(crops: PairSet) -> None:
    swapper = pipeline()
    report = Evaluator(swapper, [metrics.recon_l1()]).run(crops)
    for row in report.rows[:3]:
        picture = crops.pairs[row.pair].source
        assert crops.crops is not None
        assert picture.row is not None
        x = crops.crops.images[picture.row : picture.row + 1].float() / 255
        expected = float((swapper.swap_crops(x, x) - x).abs().mean())
        assert row.values["recon-l1"] == pytest.approx(expected, rel=1e-5)
        assert row.detected is None


def test_photographs_keep_what_lies_outside_of_the_face(photos: PairSet) -> None:
    found = means(evaluator("source").run(photos))
    # the mask fades to 0 at the outline; beyond it only resampling is left
    assert found["background"] is not None
    assert found["background"] < 1e-3
    assert found["id-gain"] is not None
    assert found["id-gain"] > 0


# -- nothing but the pairs -------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [0, -1, 65_537, 10**9, 10**30])
def test_a_batch_that_cannot_be_is_refused(photos: PairSet, batch_size: int) -> None:
    with pytest.raises(UsageError, match=rf"{batch_size} pairs cannot be in work"):
        evaluator("network").run(photos, batch_size=batch_size)
    with (
        evaluator("network").session(photos) as session,
        pytest.raises(UsageError, match=rf"{batch_size} pairs cannot be in work"),
    ):
        session.rows(range(2), batch_size=batch_size)


@pytest.mark.parametrize("what", ["network", "noise"])
def test_batch_size_workers_and_order_change_nothing(
    tmp_path: Path, photos: PairSet, what: str
) -> None:
    first = evaluator(what, frechet(), workers=1).run(photos, batch_size=1)
    for batch_size, workers in ((7, 2), (32, 3)):
        again = evaluator(what, frechet(), workers=workers).run(photos, batch_size=batch_size)
        assert diff([first], [again], 0) == []

    backwards = replace(photos, pairs=photos.pairs[::-1])
    report = evaluator(what, frechet()).run(backwards)
    assert {(r.source, r.target): r.values for r in report.rows} == {
        (r.source, r.target): r.values for r in first.rows
    }
    for name, value in first.summary.items():
        assert report.summary[name] == pytest.approx(value), name
    assert backwards.digest != photos.digest


def test_parts_of_the_pairs_give_the_rows_of_the_whole(photos: PairSet) -> None:
    one = evaluator("noise")
    whole = one.run(photos).rows
    with one.session(photos) as session:
        parts = session.rows([5, 2]) + session.rows([9])
    assert parts == [whole[5], whole[2], whole[9]]


def test_the_noise_follows_the_seed(crops: PairSet) -> None:
    one, other = (evaluator("noise", seed=seed).run(crops) for seed in (1, 2))
    assert one.rows[0].values["id-retrieval"] != other.rows[0].values["id-retrieval"]


def test_each_picture_is_searched_and_encoded_once(tmp_path: Path, photos: PairSet) -> None:
    one = evaluator("target", workers=1)
    found: list[Tensor] = []
    detect = one.pipeline.detector
    one.pipeline.detector = type("Counting", (), {"threshold": 0.5})()
    one.pipeline.detect = lambda photo: found.append(photo) or detect(photo)  # type: ignore
    one.run(photos)
    assert len(photos) == 12
    assert len(found) == 4 + 12


# -- faces that are not found ----------------------------------------------------------------------


def hiding(inner: Any, hidden: list[int]) -> FunctionDetector:
    """Finds no face at the calls with these numbers, from 1."""
    calls = itertools.count(1)
    return FunctionDetector(lambda photo: [] if next(calls) in hidden else inner(photo))


def test_a_result_without_a_face_is_judged_where_the_target_was_and_counted(
    photos: PairSet,
) -> None:
    pairs = photos.first(1)
    usual = evaluator(workers=1).run(pairs).rows[0]
    one = evaluator(workers=1)
    # source, target, result
    one.pipeline.detector = hiding(one.pipeline.detector, [3])
    report = one.run(pairs)
    row = report.rows[0]
    assert (row.detected, report.undetected) == (False, 1)
    assert row.values["id-retrieval"] == usual.values["id-retrieval"]
    assert row.values["pose-error"] is None
    assert report.summary["pose-error"].missing == 1
    _, body = table_of([report])
    assert not any("(1 without)" in cell for row in body for cell in row)
    assert ["results without a face", "1", "lower"] in body


def test_pictures_without_a_face_are_skipped_and_counted(tmp_path: Path) -> None:
    report = evaluator().run(read_pairs(all_pairs(tmp_path, 4, black=[2])))
    assert report.skipped == {
        "no face was found in the source": 3,
        "no face was found in the target": 3,
    }
    assert report.summary["id-loss"].n == 6
    assert ["pairs", "12, 6 skipped", ""] in table_of([report])[1]


def test_nothing_but_black_pictures_is_an_error(tmp_path: Path) -> None:
    pairs = read_pairs(all_pairs(tmp_path, 2, black=[0, 1]))
    with pytest.raises(DataError, match="No pair could be swapped"):
        evaluator().run(pairs)


# -- interruptions ---------------------------------------------------------------------------------


def killing(n: int) -> Callable[[Any], Tensor]:
    """A metric that ends the process after its n-th pair."""
    left = iter(range(n))

    def metric(pairs: Any) -> Tensor:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return torch.zeros(1)

    return metric


def _with(metric: Any, **options: Any) -> Evaluator:
    needs = frozenset({"swap"})
    return evaluator(
        "noise", PerPair(name="planted", needs=needs, function=metric), frechet(), **options
    )


def test_an_interrupted_evaluation_goes_on_and_says_the_same(
    tmp_path: Path, photos: PairSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "SHARD", 3)
    whole = _with(killing(99)).run(photos)
    with pytest.raises(KeyboardInterrupt):
        _with(killing(7), workers=1).run(photos, out=tmp_path / "out")
    assert len(list((tmp_path / "out").glob("rows-*.jsonl"))) == 2
    with pytest.raises(UsageError, match="resume=True"):
        _with(killing(99)).run(photos, out=tmp_path / "out")
    resumed = _with(killing(99)).run(photos, out=tmp_path / "out", resume=True, batch_size=5)
    assert resumed.run["pairs_computed"] == 6
    assert diff([whole], [resumed], 0) == []


KILLED = """
import os
from pathlib import Path

import torch
from swappers import evaluator

from facke_core.jobs import engines
from facke_core.evaluation.metrics import PerPair, frechet
from facke_core.jobs.pairs import read_pairs

engines.SHARD = 5
seen = []


def kill(pairs):
    seen.append(pairs)
    if len(seen) == 8:
        os.kill(os.getpid(), 9)
    return torch.zeros(1)


planted = PerPair(name="planted", needs=frozenset({"swap"}), function=kill)
evaluator("noise", planted, frechet()).run(read_pairs(Path("pairs.csv")), out=Path("out"))
"""


def test_a_killed_evaluation_goes_on_and_says_the_same(
    tmp_path: Path, photos: PairSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        cwd=tmp_path,
        env={"PYTHONPATH": os.pathsep.join(HERE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, done.stderr
    assert [p.name for p in (tmp_path / "out").glob("rows-*")] == ["rows-00000.jsonl"]
    monkeypatch.setattr(engines, "SHARD", 5)
    resumed = _with(killing(99)).run(photos, out=tmp_path / "out", resume=True)
    assert resumed.run["pairs_computed"] == 7
    assert diff([_with(killing(99)).run(photos)], [resumed], 0) == []


def test_rows_of_another_evaluation_are_refused(tmp_path: Path, crops: PairSet) -> None:
    evaluator(seed=1).run(crops, out=tmp_path)
    with pytest.raises(UsageError, match="seed is different"):
        evaluator(seed=2).run(crops, out=tmp_path, resume=True)


def test_damaged_rows_are_told(tmp_path: Path, crops: PairSet) -> None:
    evaluator().run(crops, out=tmp_path)
    (tmp_path / "rows-00000.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="damaged"):
        evaluator().run(crops, out=tmp_path, resume=True)


# -- pictures that are damaged, repaired and exchanged -------------------------------------------


def _cut(file: Path) -> bytes:
    """Damage a picture; return what it was."""
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 2 // 3])
    return whole


def test_a_damaged_or_missing_picture_costs_its_pairs_and_is_named(tmp_path: Path) -> None:
    file = all_pairs(tmp_path, 4)
    _cut(tmp_path / "1.png")
    (tmp_path / "3.png").unlink()
    report = evaluator().run(read_pairs(file))
    done = [(row.source, row.target) for row in report.rows if not row.skipped]
    assert done == [("0.png", "2.png"), ("2.png", "0.png")]
    assert sum(report.skipped.values()) == 10
    notes = "\n".join(notes_of(report))
    assert "the source cannot be used: 1.png is damaged or incomplete" in notes
    assert "the target cannot be used: 3.png cannot be read: No such file" in notes
    assert str(tmp_path) not in json.dumps(report.to_json())
    assert evaluator().run(read_pairs(file).first(2)).skipped, "1.png, and 2.png is there"
    with pytest.raises(DataError, match=r"No pair could be swapped: .*1\.png is damaged"):
        evaluator().run(read_pairs(file).first(1))


def test_a_pipe_among_the_pictures_is_not_waited_for(tmp_path: Path) -> None:
    write_photos(tmp_path, 2)
    os.mkfifo(tmp_path / "pipe.png")
    pairs = [("0.png", "1.png"), ("pipe.png", "0.png"), ("0.png", ".")]
    report = evaluator().run(read_pairs(write_pairs(tmp_path / "p.csv", pairs)))
    assert [bool(row.skipped) for row in report.rows] == [False, True, True]


@pytest.mark.parametrize("more", [(), (frechet,)])
def test_a_repaired_picture_is_measured_on_resume_and_the_other_rows_are_kept(
    tmp_path: Path, more: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "SHARD", 5)
    measured = [make() for make in more]
    file, out = all_pairs(tmp_path, 4), tmp_path / "out"
    whole = evaluator("network", *measured).run(read_pairs(file))
    good = _cut(tmp_path / "1.png")
    evaluator("network", *measured).run(read_pairs(file), out=out)
    (tmp_path / "1.png").write_bytes(good)
    resumed = evaluator("network", *measured).run(read_pairs(file), out=out, resume=True)
    assert resumed.run["pairs_computed"] == 6
    assert diff([whole], [resumed], 0) == []
    again = evaluator("network", *measured).run(read_pairs(file), out=out, resume=True)
    assert (again.run["pairs_computed"], diff([whole], [again], 0)) == (0, [])


def test_a_changed_line_and_another_limit_keep_the_rows_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "SHARD", 5)
    out = tmp_path / "out"
    pairs = read_pairs(all_pairs(tmp_path, 4))

    def resumed(pairs: PairSet, computed: int) -> None:
        report = evaluator().run(pairs, out=out, resume=out.exists())
        assert report.run["pairs_computed"] == computed
        assert diff([evaluator().run(pairs)], [report], 0) == []

    resumed(pairs.first(7), 7)
    resumed(pairs, 5)
    resumed(pairs.first(3), 0)
    resumed(pairs, 0)
    listed = list(pairs.pairs)
    listed[4] = listed[4]._replace(target=listed[4].source)
    resumed(replace(pairs, pairs=listed), 1)
    resumed(replace(pairs, pairs=[listed[4], *listed[::-1]]), 0)
    person = [pair._replace(source=pair.source._replace(identity="one")) for pair in pairs.pairs]
    resumed(replace(pairs, pairs=person), 0)
    (tmp_path / "other").mkdir()
    other = write_pairs(tmp_path / "other" / "p.csv", [("../0.png", "../0.png")])
    with pytest.raises(UsageError, match="rows of other pairs"):
        evaluator().run(read_pairs(other), out=out, resume=True)


def test_a_metric_that_may_see_all_sources_is_computed_anew_among_others(
    tmp_path: Path, photos: PairSet
) -> None:
    def people(pairs: Any) -> Tensor:
        return torch.tensor([float(len(pairs.identities["judge"].gallery))])

    planted = PerPair(name="people", needs=frozenset({"judge"}), function=people)
    out = tmp_path / "out"
    evaluator("network", planted).run(photos.first(3), out=out)
    report = evaluator("network", planted).run(photos, out=out, resume=True)
    assert {row.values["people"] for row in report.rows} == {4}


def test_a_picture_of_two_people_is_refused_with_both_lines(tmp_path: Path) -> None:
    write_photos(tmp_path, 2)
    shutil.copy(tmp_path / "0.png", tmp_path / "same.png")
    file = tmp_path / "p.csv"
    head = "source,target,source_identity,target_identity\n"
    file.write_text(f"{head}0.png,1.png,ann,bob\n1.png,same.png,bob,eve\n")
    with pytest.raises(DataError, match=r"same\.png shows 'ann' by line 2, and 'eve' by line 3"):
        read_pairs(file)
    file.write_text(f"{head}0.png,1.png,,\n1.png,same.png,bob,ann\n")
    (first, second) = read_pairs(file).pairs
    assert (first.source.identity, first.target.identity) == ("ann", "bob")
    assert (second.source.identity, second.target.identity) == ("bob", "ann")
    file.write_text("source,target\n0.png,1.png\nsame.png,1.png\n")
    assert [pair.source.identity for pair in read_pairs(file).pairs] == ["0.png", "0.png"]


def test_a_damaged_picture_costs_its_pair_of_the_calibration(tmp_path: Path) -> None:
    write_photos(tmp_path, 3)
    _cut(tmp_path / "1.png")
    (tmp_path / "same.csv").write_text("a,b,same\n0.png,2.png,0\n0.png,1.png,1\n")
    with pytest.warns(FackeWarning, match=r"1\.png is damaged"):
        found = evaluator().calibrate(read_same(tmp_path / "same.csv"))
    assert {values["undetected"] for values in found.values()} == {1}


# -- judges ----------------------------------------------------------------------------------------


def test_the_encoder_of_the_training_is_refused_under_any_name() -> None:
    same = Recogniser(encoder=colours(0), settings={"name": "innocent"})
    with pytest.raises(UsageError, match="'innocent' cannot judge"):
        check_judge(same, pipeline(), Registry())
    check_judge(judge(), pipeline(), Registry())


def test_without_a_judge_its_metrics_are_left_out_with_a_reason(crops: PairSet) -> None:
    report = Evaluator(pipeline(), [metrics.id_gain(), metrics.id_loss()]).run(crops)
    assert set(report.summary) == {"id-loss"}
    assert any("id-gain left out: no judge was given" in note for note in notes_of(report))
    with pytest.raises(UsageError, match="judge="):
        Evaluator(pipeline(), [metrics.id_gain()])


def test_calibration_tells_same_and_different_people_apart(tmp_path: Path) -> None:
    names = write_photos(tmp_path, 4)
    lines = [f"{a},{b},{int(a == b)}" for a in names for b in names]
    (tmp_path / "same.csv").write_text("\n".join(["a,b,same", *lines]))
    found = evaluator().calibrate(read_same(tmp_path / "same.csv"))
    assert set(found) == {"colours-0", "colours-1"}
    for values in found.values():
        assert (values["auc"], values["same"], values["different"]) == (1, 4, 12)
        assert values["same_mean"] == pytest.approx(1)
        assert values["different_mean"] < 0.9


def test_pairs_without_a_face_are_left_out_of_the_calibration_and_told(tmp_path: Path) -> None:
    write_photos(tmp_path, 2)
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    (tmp_path / "same.csv").write_text("a,b,same\n0.png,1.png,0\n0.png,black.png,1\n")
    one = evaluator()
    found = one.calibrate(read_same(tmp_path / "same.csv"))
    report = replace(one.run(pairs_of_dataset(dataset(), 4)), calibration=found)
    assert any("1 left out for want of a face" in note for note in notes_of(report))


def test_each_pair_is_told_once(crops: PairSet) -> None:
    told: list[tuple[str, int, int]] = []
    evaluator().run(crops, batch_size=8, on_progress=lambda *one: told.append(one))
    pairs = [done for what, done, _ in told if what == "pairs"]
    assert pairs == [8, 16, len(crops)]


def test_a_metric_that_mixes_pairs_is_named(crops: PairSet) -> None:
    bad = PerPair(name="mixing", needs=frozenset({"swap"}), function=lambda _: torch.tensor(1.0))
    with pytest.raises(PluginError, match="'mixing' returned"):
        Evaluator(pipeline(), [bad]).run(crops)


def test_threads_that_look_at_one_picture_at_once_share_what_they_find(
    photos: PairSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = PictureStore(pipeline("target"), StageClock(STAGES))
    find, together = pictures.find, threading.Barrier(2, timeout=30)

    def both_at_once(photo: Tensor) -> Any:
        together.wait()
        return find(photo)

    monkeypatch.setattr(pictures, "find", both_at_once)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(pictures.known, [photos.sources[0]] * 2)
    assert one is other
