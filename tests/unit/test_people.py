"""Who becomes whom: people by reference photographs, sources of several, saved faces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from facke_core import load
from facke_core.errors import FackeWarning, ImageError, NoFaceError, UsageError
from facke_core.faces.portrait import Portrait, cut_out
from facke_core.faces.pose import head_pose
from facke_core.identity.people import SAME, Cast, matched, seen_as
from facke_core.images.io import read_image, resize
from facke_core.pipeline import SwapPipeline
from facke_core.types import Face


@pytest.fixture(scope="session")
def london(shared: Path) -> Path:
    return shared / "faces" / "images" / "open" / "london"


@pytest.fixture(scope="session")
def swapper() -> SwapPipeline:
    return load("simswap", blend={"occlusion": False})


@pytest.fixture(scope="session")
def bending() -> SwapPipeline:
    return load("warp", sampler={"fallback": "none"}, blend={"occlusion": False})


def photo(london: Path, who: str, mood: str = "neutral") -> Tensor:
    image = read_image(london / who / f"{mood}.jpg").image
    return resize(image[None, :, 150:850, 200:840], (196, 180))[0]


@pytest.fixture(scope="session")
def group(london: Path) -> Tensor:
    """Three people side by side, who smile."""
    return torch.cat([photo(london, who, "smiling") for who in ("L002", "L003", "L006")], 2)


def changed(result: Tensor, group: Tensor) -> list[bool]:
    return [
        bool((result - group)[:, :, 180 * place : 180 * (place + 1)].abs().max() > 0.02)
        for place in range(3)
    ]


# Faces of a picture


def test_people_are_told_apart_by_one_threshold(swapper: SwapPipeline, london: Path) -> None:
    known = []
    for who in ("L002", "L003", "L004", "L006"):
        for mood in ("neutral", "smiling"):
            image = photo(london, who, mood)
            known.append(seen_as(image, swapper.detect(image)[:1]))
    alike = torch.cat(known) @ torch.cat(known).T
    same = torch.arange(8)[:, None] // 2 == torch.arange(8)[None] // 2
    assert float(alike[same].min()) > SAME > float(alike[~same].max())


def test_a_reference_has_one_face_at_most_and_the_likest() -> None:
    faces = torch.tensor([[0.8, 0.6, 0], [1.0, 0, 0], [0, 0, 1.0]])
    references = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0]])
    assert matched(faces, references) == [1, 0, None]
    assert matched(faces[:0], references) == []
    assert matched(faces, references[:0]) == [None, None, None]


@pytest.mark.parametrize(("choice", "places"), [("left", [0]), ("right", [2]), ("all", [0, 1, 2])])
def test_faces_are_chosen_by_their_place(
    swapper: SwapPipeline, london: Path, group: Tensor, choice: Any, places: list[int]
) -> None:
    result = swapper(photo(london, "L009"), group, face=choice)
    assert [i for i, is_new in enumerate(changed(result.image, group)) if is_new] == places


# A cast


def test_each_person_of_a_cast_becomes_who_they_shall(
    swapper: SwapPipeline, london: Path, group: Tensor
) -> None:
    one, two = photo(london, "L009"), photo(london, "L012")
    cast = Cast([(photo(london, "L006"), one), (photo(london, "L002"), two)])
    result = swapper(cast, group)
    assert changed(result.image, group) == [True, False, True]
    left, right = swapper(two, group, face="left").image, swapper(one, group, face="right").image
    assert torch.allclose(result.image[:, :, :180], left[:, :, :180], atol=0.01)
    assert torch.allclose(result.image[:, :, 360:], right[:, :, 360:], atol=0.01)


def test_who_is_kept_is_no_face_to_choose_from(
    swapper: SwapPipeline, london: Path, group: Tensor
) -> None:
    cast = Cast([(photo(london, "L002"), None)], others=photo(london, "L009"))
    assert changed(swapper(cast, group, face="left").image, group) == [False, True, False]
    assert changed(swapper(cast, group, face="all").image, group) == [False, True, True]


def test_a_cast_of_which_nobody_is_there_changes_nothing(
    swapper: SwapPipeline, london: Path, group: Tensor
) -> None:
    with pytest.raises(NoFaceError, match=r"like none of 1 .* and 0.5 is one person"):
        swapper(Cast([(photo(london, "L013"), photo(london, "L009"))]), group)
    with pytest.raises(UsageError, match="changes nothing"):
        Cast([])


# Several photographs of a source


def test_networks_get_the_mean_identity(swapper: SwapPipeline, london: Path) -> None:
    pictures = [photo(london, "L002", mood) for mood in ("neutral", "smiling")]
    each = [swapper.players(picture).others for picture in pictures]
    both = swapper.players(pictures).others
    assert both is not None
    mean = sum(one.identity for one in each if one is not None)
    assert isinstance(mean, Tensor)
    assert torch.allclose(both.identity, mean / mean.norm(), atol=1e-5)


def test_pixels_come_from_the_photograph_that_is_turned_like_the_target(
    bending: SwapPipeline, london: Path
) -> None:
    front = photo(london, "L002")
    (face, *_) = bending.detect(front)
    assert face.mesh is not None
    turned = seen_from_the_side(face)
    both = bending.players([front, front]).others
    assert both is not None
    assert both.nearest(head_pose(turned)) == 0  # of equals the first
    sides = both._replace(poses=[head_pose(face), head_pose(turned)])
    assert sides.nearest(head_pose(turned)) == 1
    assert sides.nearest(head_pose(face)) == 0
    covered = torch.zeros(2, 1, 64, 64)
    covered[0] = 0.9
    assert sides._replace(hidden=covered).nearest(head_pose(face)) == 1


def seen_from_the_side(face: Face) -> Face:
    """The face with its nose moved to the side, as by a head that is turned."""
    from facke_core.faces.mesh import face_mesh

    angle = torch.tensor(0.5)
    points = face_mesh().points
    x = points[:, 0] * angle.cos() + points[:, 2] * angle.sin()
    mesh = (100 + 40 * torch.stack([x, points[:, 1]], 1)).float()
    return face._replace(mesh=mesh)


def test_pictures_without_a_face_are_left_out_with_a_warning(
    swapper: SwapPipeline, london: Path
) -> None:
    good, empty = photo(london, "L002"), torch.zeros(3, 64, 64)
    with pytest.warns(FackeWarning, match="Left out of the source: No face"):
        portrait = swapper.portrait([good, empty])
    assert len(portrait.views) == 1
    with pytest.raises(NoFaceError):
        swapper.portrait([empty, empty])
    with pytest.raises(UsageError, match="A source of 0 photographs"):
        swapper.portrait([])


def test_a_stranger_among_the_photographs_is_noticed(swapper: SwapPipeline, london: Path) -> None:
    pictures = [photo(london, "L002"), photo(london, "L002", "smiling"), photo(london, "L006")]
    with pytest.warns(FackeWarning, match="seems to show somebody else"):
        swapper.portrait(pictures)


# Saved faces


@pytest.mark.parametrize("method", ["swapper", "bending"])
def test_a_saved_face_is_the_source_that_it_was(
    method: str, request: pytest.FixtureRequest, london: Path, tmp_path: Path
) -> None:
    pipeline: SwapPipeline = request.getfixturevalue(method)
    pictures = [london / "L002" / f"{mood}.jpg" for mood in ("neutral", "smiling")]
    target = photo(london, "L006", "smiling")
    file = tmp_path / "person.safetensors"
    pipeline.portrait(pictures).save(file)
    saved, fresh = pipeline(str(file), target), pipeline(pictures, target)
    assert float((saved.image - fresh.image).abs().max()) < 0.02
    assert torch.equal(pipeline(Portrait.read(file), target).image, saved.image)


def test_identities_of_another_encoder_are_computed_anew(
    swapper: SwapPipeline, london: Path, tmp_path: Path
) -> None:
    portrait = swapper.portrait(photo(london, "L002"))
    assert portrait.identities is not None
    wrong = torch.nn.functional.normalize(torch.ones_like(portrait.identities), dim=1)
    for encoder, used in ((portrait.encoder, True), ("0" * 64, False)):
        other = Portrait(views=portrait.views, encoder=encoder, identities=wrong)
        given = swapper.players(other).others
        assert given is not None
        assert torch.equal(given.identity, wrong) is used


def test_what_is_kept_of_a_photograph_ends_near_the_head(
    swapper: SwapPipeline, london: Path
) -> None:
    (view,) = swapper.portrait(str(london / "L002" / "neutral.jpg")).views
    wide = view._replace(
        photo=view.photo._replace(image=resize(view.photo.image[None], (3000, 3000))[0]),
        face=view.face._replace(
            **{
                name: (getattr(view.face, name) + 0.5) * (3000 / view.photo.image.shape[1]) - 0.5
                for name in ("box", "landmarks", "mesh")
            }
        ),
    )
    part, face = cut_out(wide)
    assert max(part.shape) <= 1536
    (found, *_) = swapper.detect(part)
    width = float(face.box[2] - face.box[0])
    assert float((found.landmarks - face.landmarks).norm(dim=1).mean()) < 0.03 * width


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t, m: m.pop("facke"), "its metadata do not say so"),
        (lambda t, m: m.update(views="[]"), "not between 1 and 64"),
        (lambda t, m: m.update(views="[NaN]"), "NaN is not JSON"),
        (lambda t, m: t.pop("box.0"), "has no box"),
        (lambda t, m: t.pop("photo.0"), "not complete"),
        (lambda t, m: t.update({"mesh.0": torch.zeros(3, 2)}), "its mesh has the shape"),
        (lambda t, m: t["landmarks.0"].fill_(torch.nan), "numbers that are none"),
        (lambda t, m: t["identities"].fill_(0), "unit norm"),
        (lambda t, m: m.update(encoder=""), "not both"),
        (lambda t, m: t.update(more=torch.zeros(1)), "it holds 'more'"),
    ],
)
def test_files_that_are_no_saved_faces_are_refused(
    swapper: SwapPipeline, london: Path, tmp_path: Path, change: Any, says: str
) -> None:
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    swapper.portrait(photo(london, "L002")).save(good)
    tensors, metadata = load_file(good), dict(metadata_of(good))
    change(tensors, metadata)
    save_file(tensors, bad, metadata)
    with pytest.raises(ImageError, match=says):
        swapper(str(bad), photo(london, "L003"))


def metadata_of(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as held:
        return dict(held.metadata())


def test_faces_are_written_once_and_under_their_own_ending(
    swapper: SwapPipeline, london: Path, tmp_path: Path
) -> None:
    portrait = swapper.portrait(photo(london, "L002"))
    portrait.save(tmp_path / "a.safetensors")
    with pytest.raises(ImageError, match="is there already"):
        portrait.save(tmp_path / "a.safetensors")
    portrait.save(tmp_path / "a.safetensors", overwrite=True)
    with pytest.raises(UsageError, match=r"Let it end in \.safetensors"):
        portrait.save(tmp_path / "a.pt")
    with pytest.raises(ImageError, match="cannot be read"):
        Portrait.read(tmp_path / "none.safetensors")
