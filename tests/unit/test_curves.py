"""What a model card shows of a training's log: at most 15 lines, and a plot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from facke_core._files import sha256_of
from facke_core.errors import VerificationError, WeightsError
from facke_core.evaluation.report import read_reports
from facke_core.publish._curves import (
    POINTS,
    curves_beside,
    parts,
    plot,
    read_curves,
    table_rows,
    write_logs,
)
from facke_core.publish.card import model_card
from facke_core.weights.layout import (
    CARD,
    CONFIG,
    EVALUATION,
    LOG,
    PLOT,
    WeightsConfig,
    check_files,
    logs_of,
    read_weights_config,
)

ROOT = Path(__file__).parents[2]
BUNDLED = [
    *(path.parent for path in ROOT.glob("packages/*/src/*/weights/*/config.json")),
    *(path.parent for path in ROOT.glob("examples/*/src/*/weights/*/config.json")),
]
SVG = "{http://www.w3.org/2000/svg}"


def log_of(steps: int, quantities: int = 2) -> bytes:
    names = [f"generator.q{k}" for k in range(quantities)]
    lines = (
        {"step": s, "images": 8 * s} | dict.fromkeys(names, s / 7) for s in range(1, steps + 1)
    )
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


# -- small, however long the log ------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 5, 40])
def test_parts_are_never_more_than_asked_for_and_nearly_equal(most: int) -> None:
    for length in range(200):
        found = parts(range(length), most)
        assert [i for part in found for i in part] == list(range(length))
        assert len(found) == min(length, most)
        sizes = {len(part) for part in found}
        assert not sizes or max(sizes) - min(sizes) <= 1


def test_a_table_has_at_most_15_lines_for_any_log() -> None:
    for steps in (0, 1, 2, 4, 5, 6, 39, 40, 41, 77, 79, 80, 81, 1000):
        for quantities in (1, 12, 13, 14, 40):
            rows = table_rows(read_curves(log_of(steps, quantities)))
            assert len(rows) + 1 <= 15, "with the line below the head"
            assert {len(row) for row in rows} <= {min(steps, 5) + 1}
            if quantities > 13 and steps:
                assert rows[-1][0] == f"and {quantities - 12} more"
            elif steps:
                assert len(rows) == quantities + 1


def test_a_curve_has_few_points_for_any_log() -> None:
    for steps in (1, 2, 47, 48, 49, 77, 95, 96, 97, 1000):
        (line,) = ElementTree.fromstring(plot(read_curves(log_of(steps, 1)))).iter(f"{SVG}polyline")
        assert len(line.attrib["points"].split()) == min(steps, POINTS)


# -- what they say --------------------------------------------------------------------------------


def test_a_table_gives_the_mean_of_each_span() -> None:
    lines: list[dict[str, Any]] = [
        {"step": s, "images_per_s": 9.0, "generator.identity": float(s)} for s in range(1, 11)
    ]
    lines.insert(8, {"step": 8, "probe.score": 0.25, "note": "Zoë", "lr": None, "done": True})
    assert table_rows(read_curves(b"\n".join(json.dumps(x).encode() for x in lines))) == [
        ["mean over the steps", "1 to 2", "3 to 4", "5 to 6", "7 to 8", "9 to 10"],
        ["generator.identity", "1.5", "3.5", "5.5", "7.5", "9.5"],
        ["probe.score", "", "", "", "0.25", ""],
    ]


def test_lines_that_are_none_and_values_that_are_no_numbers_are_left_out() -> None:
    torn = (
        b'{"step": 1, "a": "x", "b": null, "c": 2}\n{"step": 1, "d": NaN}\n'
        b'\x00\n[1]\n{"c": 5}\n{"step": 2, "c": 3'
    )
    assert read_curves(torn) == {"c": [(1, 2.0)]}
    assert plot({}) == ""
    assert table_rows({}) == []


def test_a_plot_is_the_same_each_time_and_escapes_names() -> None:
    curves = {'<script x="1">&': [(1, 2.0), (5, -1.0)], "b.c": [(3, 1.0)]}
    picture = plot(curves)
    assert picture == plot(curves)
    root = ElementTree.fromstring(picture)
    assert [text.text for text in root.iter(f"{SVG}text")] == [
        *('<script x="1">&', "2", "-1"),
        *("b.c", "1"),
        "steps 1 to 5",
    ]
    assert not list(root.iter(f"{SVG}script"))
    first, second = root.iter(f"{SVG}polyline")
    assert first.attrib["points"].split()[0].startswith("0.0,")
    assert first.attrib["stroke"] != second.attrib["stroke"], "another module, another colour"


# -- in a folder of weights -----------------------------------------------------------------------


def test_logs_lie_beside_the_weights_and_only_their_digests_in_the_configuration(
    tmp_path: Path,
) -> None:
    logs = write_logs(tmp_path, {"log-1.jsonl": b"{}\n", LOG: log_of(50)})
    assert logs == {name: sha256_of(tmp_path / name) for name in ("log-1.jsonl", LOG, PLOT)}
    config = WeightsConfig(method="simswap", alignment={}, training={"steps": 50, "logs": logs})
    card = model_card(config, curves=curves_beside(tmp_path, config))
    assert f"]({PLOT})" in card
    assert "| generator.q0 | 0.7857 |" in card
    assert "Every logged step: [log-1.jsonl](log-1.jsonl), [log.jsonl](log.jsonl)" in card
    assert logs[LOG] not in card


def test_a_training_without_a_log_has_no_plot(tmp_path: Path) -> None:
    assert write_logs(tmp_path, {}) == {}
    assert write_logs(tmp_path, {LOG: b""}).keys() == {LOG}
    assert not (tmp_path / PLOT).exists()


@pytest.mark.parametrize("name", [LOG, PLOT])
def test_a_log_that_was_changed_or_is_gone_is_told(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    shutil.copytree(BUNDLED[0], folder)
    config = read_weights_config(folder)
    assert {LOG, PLOT} <= check_files(folder, config).keys()
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content.replace(b"2", b"3", 1))
    with pytest.raises(VerificationError, match=f"{name} is not the file"):
        check_files(folder, config)
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=f"{name} is missing"):
        check_files(folder, config)


@pytest.mark.parametrize("remark", ["see the wiki", {"../secret": "0"}, {"log/x.jsonl": "0"}, 7])
def test_what_names_no_log_is_a_remark(remark: object) -> None:
    config = WeightsConfig(method="simswap", alignment={}, training={"logs": remark})
    assert logs_of(config) == {}
    assert "| logs |" in model_card(config)


# -- the bundled ones -----------------------------------------------------------------------------


@pytest.mark.parametrize("folder", BUNDLED, ids=lambda path: path.name)
def test_bundled_weights_are_described_shortly_and_truly(folder: Path) -> None:
    assert (folder / CONFIG).stat().st_size < 4096
    config = read_weights_config(folder)
    listed = check_files(folder, config)
    assert {path.name for path in folder.glob("log*")} == logs_of(config).keys() <= listed.keys()
    assert read_reports(folder / EVALUATION)
    evaluation = json.loads((folder / EVALUATION).read_text("utf-8"))
    curves = curves_beside(folder, config)
    assert (folder / PLOT).read_text("utf-8") == plot(curves)
    card = (folder / CARD).read_text("utf-8")
    assert len(card.splitlines()) < 120
    assert card == model_card(config, evaluation, curves=curves, folder=folder.name)
    for name, value in evaluation["reports"][0]["summary"].items():
        assert f"| {name} (" in card
        assert value["value"] is None or f"{value['value']:.4g}" in card


def test_there_are_bundled_weights() -> None:
    assert {path.name for path in BUNDLED} == {
        *("simswap-mini", "cvae-gan-mini", "ddpm-mini", "fuse-mini", "mobile-tiny")
    }
