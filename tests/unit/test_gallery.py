"""The gallery chooses by the manifest, always alike, and shows the commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gallery

    yield gallery
    del sys.modules["gallery"]


def row(group: str, name: str, yaw: float = 0.0, file: str = "0.jpg") -> dict[str, str]:
    return {
        "path": f"images/open/{group}/{name}/{file}",
        "group": group,
        "identity": f"{group}/{name}",
        "licence": "CC0",
        "yaw": str(yaw),
    }


ROWS = [
    *(row("london", f"L{i}", file="neutral.jpg") for i in range(8)),
    *(row("london", f"L{i}", file="smiling.jpg") for i in range(8)),
    *(row("sfhq_t2i", f"2_{kind}_r{i}c0") for kind in ("Hats", "Expression") for i in range(3)),
    *(row("sfhq_t2i", f"2_Face_Pose_r{i}c0", yaw) for i, yaw in enumerate((40, -60, 25, 10))),
]


def test_targets_have_the_attribute_of_their_figure(gallery: Any) -> None:
    made = {one.number: one for one in gallery.figures(ROWS, list("4567"), 5, 25.0)}
    targets = {n: [target["identity"] for _, target in one.pairs] for n, one in made.items()}
    assert all("london" in name for name in targets["4"])
    assert sorted(targets["5"]) == [f"sfhq_t2i/2_Hats_r{i}c0" for i in range(3)]
    assert targets["6"] == [f"sfhq_t2i/2_Face_Pose_r{i}c0" for i in (1, 2, 0)], "by their angle"
    assert sorted(targets["7"]) == [f"sfhq_t2i/2_Expression_r{i}c0" for i in range(3)]
    for one in made.values():
        for source, target in one.pairs:
            assert source["path"].endswith("neutral.jpg")
            assert source["identity"] != target["identity"]


def test_the_choice_is_the_same_until_another_is_asked_for(gallery: Any) -> None:
    def chosen(numbers: str, choice: int) -> Any:
        return gallery.figures(ROWS, list(numbers), 3, 25.0, choice)[-1].pairs

    assert chosen("4", 0) == chosen("74", 0)
    assert chosen("4", 0) != chosen("4", 1)


def test_the_page_shows_each_picture_with_its_command_and_credits(gallery: Any) -> None:
    figure = gallery.figures(ROWS, ["5"], 2, 25.0)[0]
    words = figure.words(["-o", figure.file])
    assert words[2:4] == [
        "pictures/" + source["path"].removeprefix("images/") for source, _ in figure.pairs
    ]
    for page in (gallery.page_html, gallery.page_markdown):
        text = page([(figure, "facke " + " ".join(words))])
        assert "facke matrix --sources pictures/open/london" in text
        assert "2 of london (CC0), 2 of sfhq_t2i (CC0)" in text
        assert figure.file in text
