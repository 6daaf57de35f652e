"""Files that systems put beside pictures are no pictures, wherever a folder is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from facke_cli.commands.matrix import pictures
from facke_cli.commands.weights_export import crops_of
from facke_cli.watching import check_previews
from facke_core.errors import NoFaceError
from facke_core.images.files import is_hidden, pictures_in
from facke_core.jobs.swapping import _begin
from facke_core.prepare.photos import find_photos
from facke_core.testing import TinyDetector

HIDDEN = ("._a.jpg", ".DS_Store", ".b.png", "Thumbs.db", "desktop.ini", "__MACOSX/c.jpg",
          "@eaDir/d.jpg", ".trash/e.jpg")  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A picture, what systems put beside it, and a text."""
    for name in HIDDEN:
        (tmp_path / "ann" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ann" / name).write_bytes(b"no picture")
    Image.new("RGB", (8, 8)).save(tmp_path / "ann" / "a.jpg")
    (tmp_path / "ann" / "notes.txt").touch()
    return tmp_path / "ann"


def test_only_the_picture_is_found(folder: Path) -> None:
    assert pictures_in(folder) == pictures_in(folder, deep=True) == [folder / "a.jpg"]
    assert pictures_in(folder.parent, deep=True) == [folder / "a.jpg"]
    assert pictures([str(folder)]) == [folder / "a.jpg"]
    assert not is_hidden("a.DS_Store.jpg")


def test_prepare_takes_no_hidden_file_for_a_picture_or_a_person(folder: Path) -> None:
    (folder.parent / "__MACOSX").mkdir()
    (folder.parent / "__MACOSX" / "._a.jpg").touch()
    album = find_photos(folder.parent)[""]
    assert [picture.path for picture in album.pictures] == ["ann/a.jpg", "ann/notes.txt"]
    assert album.people == {"ann"}
    assert list(album.beside) == []


def test_the_pictures_of_a_calibration_are_those_that_can_be_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Pipeline:
        detect = TinyDetector("arcface")

    (folder / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(NoFaceError, match="0 of 2 pictures"):
        crops_of(Pipeline(), folder)  # type: ignore[arg-type]
    assert "left out: " in capsys.readouterr().err


def test_a_folder_with_hidden_files_only_is_empty(tmp_path: Path) -> None:
    for name in ("out", "previews"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".DS_Store").touch()
        (tmp_path / name / "Thumbs.db").touch()
    check_previews(tmp_path / "previews")
    assert _begin(tmp_path / "out", {"pairs": {}}, resume=False).is_dir()
