"""Skin tones: planted colours have their angle, and reports tell groups apart."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kornia.color import lab_to_rgb
from PIL import Image
from swappers import TEMPLATE, evaluator, write_pairs
from torch import Tensor

from facke_core.config import from_dict
from facke_core.errors import UsageError
from facke_core.evaluation import tones
from facke_core.evaluation.html import page
from facke_core.evaluation.report import (
    EvaluationReport,
    MetricInfo,
    by_tone,
    diff,
    notes_of,
    read_reports,
    write_reports,
)
from facke_core.evaluation.rows import Row
from facke_core.evaluation.tones import ENOUGH, group_of, tone_of
from facke_core.faces import occlusion as occluders
from facke_core.faces.areas import LIPS_RING, inside
from facke_core.faces.detect import build_mediapipe
from facke_core.faces.mesh import EYE_RINGS
from facke_core.images.io import read_image
from facke_core.testing import TinyDetector

SIDE = 160
SAMPLES = Path(__file__).parents[2] / "packages/facke-cli/src/facke_cli/samples"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing lies before a face: the network has never seen painted ones."""
    monkeypatch.setattr(occluders, "occlusion", _covers(lambda x: torch.zeros_like(x)))


def _covers(share: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def occlusion(photo: Tensor, faces: Sequence[object], size: int) -> Tensor:
        columns = torch.arange(size).float().expand(len(faces), 1, size, size) / size
        return share(columns)

    return occlusion


def painted(lab: tuple[float, float, float], *, grey: bool = False) -> Tensor:
    """A photo (3, SIDE, SIDE) of a face of one colour with red lips and blue eyes."""
    detector = TinyDetector(TEMPLATE, mesh=True)
    noise = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    (face,) = detector(noise)
    assert face.mesh is not None
    colour = torch.tensor(lab)[:, None, None].expand(3, SIDE, SIDE)
    photo = lab_to_rgb(colour)
    for rings, paint in (((LIPS_RING,), (0.8, 0.1, 0.2)), (EYE_RINGS, (0.2, 0.3, 0.9))):
        share = inside(face.mesh, rings, SIDE)
        photo = torch.lerp(photo, torch.tensor(paint)[:, None, None], share)
    return photo.mean(0, keepdim=True).expand(3, -1, -1) if grey else photo


def found(photo: Tensor) -> tones.Tone:
    (face,) = TinyDetector(TEMPLATE, mesh=True)(photo)
    return tone_of(photo, face)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("lab", "name"),
    [
        ((75.0, 8.0, 12.0), "very light"),
        ((65.0, 10.0, 14.0), "light"),
        ((62.0, 10.0, 17.0), "intermediate"),
        ((57.0, 12.0, 20.0), "tan"),
        ((47.0, 12.0, 18.0), "brown"),
        ((30.0, 10.0, 14.0), "dark"),
    ],
)
def test_a_planted_colour_has_its_angle(lab: tuple[float, float, float], name: str) -> None:
    tone = found(painted(lab))
    assert isinstance(tone, float)
    angle = math.degrees(math.atan2(lab[0] - 50, lab[2]))
    assert tone == pytest.approx(angle, abs=0.5)
    assert group_of(tone) == name


@pytest.mark.usefixtures("bare")
def test_a_picture_without_colours_is_grey_and_one_without_a_mesh_unknown() -> None:
    photo = painted((75.0, 8.0, 12.0), grey=True)
    assert found(photo) == "grey"
    tint = torch.tensor([1.0, 0.85, 0.6])[:, None, None]
    assert found(photo * tint) == "grey"
    (face,) = TinyDetector(TEMPLATE)(photo)
    assert tone_of(photo, face) is None
    assert tone_of(photo, None) is None
    assert [group_of("grey"), group_of(None)] == ["grey", "unknown"]


def test_what_is_covered_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = painted((62.0, 10.0, 17.0))
    other = lab_to_rgb(torch.tensor([62.0, 40.0, -40.0])[:, None, None])
    photo = torch.cat([photo[:, :, : SIDE * 7 // 16], other.expand(3, SIDE, SIDE * 9 // 16)], 2)
    angle = math.degrees(math.atan2(12, 17))
    monkeypatch.setattr(occluders, "occlusion", _covers(lambda x: (x > 0.42).float()))
    assert found(photo) == pytest.approx(angle, abs=0.5)
    monkeypatch.setattr(occluders, "occlusion", _covers(lambda x: torch.zeros_like(x)))
    assert found(photo) != pytest.approx(angle, abs=20)
    monkeypatch.setattr(occluders, "occlusion", _covers(lambda x: torch.ones_like(x)))
    assert found(photo) is None


def test_the_tone_of_real_photographs_follows_their_light_and_not_their_size() -> None:
    photo = read_image(SAMPLES / "collins.png").image
    detector = build_mediapipe()
    tone = tone_of(photo, detector(photo)[0])
    assert isinstance(tone, float)
    small = torch.nn.functional.interpolate(photo[None], scale_factor=0.6, mode="area")[0]
    assert tone_of(small, detector(small)[0]) == pytest.approx(tone, abs=2)
    darker = tone_of(photo * 0.6, detector(photo)[0])
    assert isinstance(darker, float)
    assert darker < tone - 10
    grey = photo.mean(0, keepdim=True).expand(3, -1, -1)
    assert tone_of(grey, detector(photo)[0]) == "grey"


def test_people_of_the_london_set_are_of_the_classes_that_one_sees(shared: Path) -> None:
    folder = shared / "faces" / "images" / "open" / "london"
    detector = build_mediapipe()
    seen = {}
    for who in ("L002", "L004", "L127", "L143"):
        for name in ("neutral", "smiling"):
            photo = read_image(folder / who / f"{name}.jpg").image
            seen[who, name] = tone_of(photo, detector(photo)[0])
    numbers = {key: tone for key, tone in seen.items() if isinstance(tone, float)}
    assert len(numbers) == len(seen)
    for who in ("L002", "L004", "L127", "L143"):
        assert abs(numbers[who, "neutral"] - numbers[who, "smiling"]) < 18
    for light in ("L002", "L004", "L143"):  # the last below a dark fringe
        assert numbers[light, "neutral"] > 55
    assert numbers["L127", "neutral"] < 45


# -- in evaluations --------------------------------------------------------------------------------


def _photos(folder: Path) -> Path:
    labs = ((75.0, 8.0, 12.0), (74.0, 8.0, 12.0), (30.0, 10.0, 14.0))
    for i, lab in enumerate(labs):
        pixels = (painted(lab) * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{i}.png")
    grey = (painted(labs[0], grey=True) * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(grey).save(folder / "3.png")
    names = [f"{i}.png" for i in range(4)]
    return write_pairs(folder / "pairs.csv", [(a, b) for a in names for b in names if a != b])


@pytest.mark.usefixtures("bare")
def test_reports_have_groups_that_neither_batches_nor_order_nor_a_stop_change(
    tmp_path: Path,
) -> None:
    from facke_core.jobs.pairs import read_pairs

    pairs = read_pairs(_photos(tmp_path))
    one = evaluator("target", workers=1)
    one.pipeline.detector = TinyDetector(TEMPLATE, mesh=True)
    report = one.run(pairs, batch_size=1, out=tmp_path / "rows")
    tone = {row.source: row.source_tone for row in report.rows}
    assert tone == {row.target: row.target_tone for row in report.rows}
    assert tone["3.png"] == "grey"
    assert list(report.tones["source"]) == ["very light", "dark", "grey"]
    gain = report.tones["target"]["very light"]["id-gain"]
    assert gain.n == 6
    assert gain.value == pytest.approx(0, abs=1e-2)

    one.workers = 3
    assert diff([one.run(pairs, batch_size=7)], [report], 0) == []
    turned = one.run(replace(pairs, pairs=pairs.pairs[::-1]))
    assert turned.tones == report.tones
    (tmp_path / "rows" / "rows-00000.jsonl").write_text(
        "".join((tmp_path / "rows" / "rows-00000.jsonl").open().readlines()[:5])
    )
    again = one.run(pairs, out=tmp_path / "rows", resume=True)
    assert again.run["pairs_computed"] == 7
    assert diff([again], [report], 0) == []

    write_reports(tmp_path / "report.json", [report])
    (read,) = read_reports(tmp_path / "report.json")
    assert read.tones == report.tones
    assert diff([read], [report], 0) == []
    assert any(note.startswith("skin of the source: very light n=6") for note in notes_of(read))
    text = page([read])
    assert "By the target&#x27;s skin" in text
    assert "<th>dark</th>" in text


@pytest.mark.usefixtures("bare")
def test_rows_of_a_time_without_tones_are_refused(tmp_path: Path) -> None:
    from facke_core.jobs.pairs import read_pairs

    pairs = read_pairs(_photos(tmp_path))
    evaluator("target").run(pairs, out=tmp_path / "rows")
    run = json.loads((tmp_path / "rows" / "run.json").read_text())
    del run["tones"]
    (tmp_path / "rows" / "run.json").write_text(json.dumps(run))
    with pytest.raises(UsageError, match="tones is different"):
        evaluator("target").run(pairs, out=tmp_path / "rows", resume=True)


def test_evaluations_without_a_mesh_have_no_groups(tmp_path: Path) -> None:
    from facke_core.jobs.pairs import read_pairs

    report = evaluator("target").run(read_pairs(_photos(tmp_path)))
    assert report.tones == {}
    assert not any("skin" in note for note in notes_of(report))


# -- warnings --------------------------------------------------------------------------------------


def row(index: int, tone: tones.Tone, gain: float | None) -> Row:
    return Row(
        pair=index,
        source=f"{index}",
        target="t",
        source_identity=f"{tone}{index % 10}",
        target_identity=f"{index % 7}",
        values={"id-gain": gain},
        source_tone=tone,
    )


def warned(*groups: tuple[tones.Tone, int, float, float]) -> list[str]:
    """The warnings of groups of (tone, pairs, mean gain, spread)."""
    rows: list[Row] = []
    for tone, n, mean, spread in groups:
        rows += [row(i, tone, mean + spread * (-1) ** (i // 2)) for i in range(n)]
    report = EvaluationReport(
        name="x",
        protocol={},
        metrics={"id-gain": MetricInfo(higher_is_better=True)},
        summary={},
        undetected=None,
        skipped={},
        rows=rows,
        tones=by_tone(rows, ["id-gain"]),
    )
    return [note for note in notes_of(report) if note.startswith("warning")]


def test_a_class_that_is_clearly_worse_is_named() -> None:
    (note,) = warned((60.0, 40, 0.5, 0.05), (-50.0, 40, 0.3, 0.05), (45.0, 40, 0.48, 0.05))
    assert "id-gain is worse where the source is dark (0.3, 40 pairs)" in note
    assert "very light (0.5, 40 pairs), by more than 0.05" in note


@pytest.mark.parametrize(
    "groups",
    [
        [(60.0, 40, 0.5, 0.05), (-50.0, 40, 0.46, 0.0)],  # within the margin
        [(60.0, 40, 0.5, 0.4), (-50.0, 40, 0.4, 0.4)],  # intervals that overlap
        [(60.0, 40, 0.5, 0.05), (-50.0, ENOUGH - 1, 0.3, 0.05)],  # too few
        [(60.0, 40, 0.5, 0.05), ("grey", 40, 0.3, 0.05), (None, 40, 0.2, 0.05)],  # no skin tones
    ],
)
def test_nothing_is_said_without_support(
    groups: list[tuple[tones.Tone, int, float, float]],
) -> None:
    assert warned(*groups) == []


def test_lower_can_be_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tones, "MARGINS", {"seam": 0.5})
    rows = [replace(row(i, t, v), values={"seam": v + 0.1 * (-1) ** (i // 2)})
            for t, v in ((60.0, -3.0), (0.0, 2.0)) for i in range(40)]  # fmt: skip
    groups = by_tone(rows, ["seam"])
    (note,) = tones.warnings_of(groups, {"seam": False})
    assert note.startswith("seam is worse where the source is brown")


def test_rows_hold_a_tone_as_a_number_as_grey_or_not_at_all() -> None:
    plain = {"pair": 0, "source": "a", "target": "b", "source_identity": "a"}
    plain |= {"target_identity": "b", "values": {}}
    assert from_dict(Row, plain).source_tone is None
    read = from_dict(Row, {**plain, "source_tone": "grey", "target_tone": 41})
    assert (read.source_tone, read.target_tone) == ("grey", 41.0)


def test_edges_of_classes_belong_to_the_darker_one() -> None:
    edges = [55.0, 41.0, 28.0, 10.0, -30.0]
    assert [group_of(edge) for edge in edges] == [name for name, _ in tones.CLASSES][1:]
    assert group_of(-170.0) == "dark"
