"""The benchmark sets are what they say, and always the same."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def sets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import sets

    yield sets
    for name in ("sets", "common"):
        sys.modules.pop(name, None)


@pytest.fixture
def made(sets: Any, shared: Path) -> dict[str, Any]:
    with (shared / "faces" / "manifest.csv").open(newline="") as file:
        return dict(sets.sets(list(csv.DictReader(file))))


def test_sets_have_their_sizes_and_nobody_is_put_on_oneself(made: dict[str, Any]) -> None:
    sizes = {name: len(pairs) for name, pairs in made.items()}
    assert sizes == {
        "L-L.csv": 180,
        "L-S.csv": 60,
        "L-C.csv": 60,
        "W-local-only.csv": 60,
        "Y.csv": 60,
        "G.csv": 40,
        "eye.csv": 24,
    }
    for name, pairs in made.items():
        keys = [(a["path"], b["path"]) for a, b, _ in pairs]
        assert len(set(keys)) == len(keys), name
        for source, target, reference in pairs:
            assert source["identity"] != target["identity"]
            assert source["identity"] == reference["identity"]
            assert source["path"] != reference["path"]
            private = "research_only" in {source["cls"], target["cls"]}
            assert private == (name == "W-local-only.csv")


def test_targets_are_what_the_sets_are_for(made: dict[str, Any], shared: Path) -> None:
    assert Counter(b["identity"] for _, b, _ in made["L-L.csv"]).most_common(1)[0][1] == 3
    assert all(b["path"].endswith("smiling.jpg") for _, b, _ in made["L-S.csv"])
    assert all("congress" in b["path"] and "wiki" not in b["path"] for _, b, _ in made["L-C.csv"])
    assert all(20 <= abs(float(b["yaw"])) <= 45 for _, b, _ in made["Y.csv"])
    assert {b["gray"] for _, b, _ in [*made["Y.csv"], *made["L-C.csv"], *made["G.csv"]]} == {"0"}
    turned = [b for _, b, _ in made["eye.csv"] if 20 <= abs(float(b["yaw"])) <= 45]
    assert len(turned) >= 4
    assert all(
        (shared / "faces" / row["path"]).is_file() for s in made.values() for p in s for row in p
    )


def test_sets_are_the_same_whatever_the_order_of_a_run(
    sets: Any, made: dict[str, Any], shared: Path
) -> None:
    with (shared / "faces" / "manifest.csv").open(newline="") as file:
        again = sets.sets(list(csv.DictReader(file)))
    assert again == made
    people = sets.people(made.values())
    assert {"london_L002", "congress_C000537", "sfhq_t2i_1_glasses_r0c00"} <= set(people)
    assert people == sorted(set(people))


def test_the_csv_is_one_that_an_evaluation_reads(
    sets: Any, made: dict[str, Any], tmp_path: Path
) -> None:
    from facke_core.jobs.pairs import read_pairs

    pairs = read_pairs(sets.write(tmp_path, "eye.csv", made["eye.csv"]))
    assert len(pairs) == 24
    assert not any(picture.fault for pair in pairs.pairs for picture in pair[:2])
    head = (tmp_path / "eye.csv").read_text().splitlines()[0]
    assert head == "source,target,source_identity,target_identity,reference"


def test_people_are_found_under_other_names(sets: Any, shared: Path, tmp_path: Path) -> None:
    from facke_core import load_encoder
    from facke_core.config import to_dict
    from facke_core.data.crops import CropSet
    from facke_core.faces.align import align
    from facke_core.faces.detect import build_mediapipe
    from facke_core.faces.templates import Alignment
    from facke_core.images.io import read_image

    folder = shared / "faces" / "images" / "open" / "london"
    alignment = Alignment(template="simswap_frontal", size=128)
    encoder, detect = load_encoder("dlib-resnet29"), build_mediapipe()
    crops = []
    for who in ("L002", "L043", "L021"):
        photo = read_image(folder / who / "smiling.jpg").image
        crops.append(align(photo, detect(photo)[0], alignment).crop)
    stacked = torch.stack(crops)
    with torch.inference_mode():
        vectors = torch.stack([encoder(stacked), encoder(stacked.flip(-1))], 1)
    CropSet(
        images=(stacked * 255).byte(),
        embeddings=vectors.clone(),
        people=torch.arange(3),
        weights=torch.ones(3),
        info={
            "name": "three",
            "alignment": to_dict(alignment),
            "identity_encoder": {"name": "dlib-resnet29"},
            "people": ["one", "two", "three"],
        },
    ).save(tmp_path / "data")
    found = sets.lookalikes(tmp_path / "data", [folder / "L043" / "neutral.jpg"])
    assert found == ["two"]
