"""``facke prepare``: photographs in, the same bytes out, and nothing computed twice."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

import facke_cli.samples
import facke_core.prepare.photos
from facke_cli.advice import in_options
from facke_cli.main import main
from facke_core import load_encoder
from facke_core.data.crops import CropSet, check_encoder
from facke_core.errors import DataError, FackeWarning, UsageError
from facke_core.images.io import read_image, resize
from facke_core.prepare.portraits import UNREADABLE, Done, Job
from facke_core.prepare.prepare import prepare
from facke_core.prepare.summary import PrepareSummary
from facke_core.prepare.workers import Workers

pytest.importorskip("mediapipe", reason="the detector is not installed")

SIZE = 32
SAMPLES = Path(facke_cli.samples.__file__).parent
RAW = {"name": "dlib-resnet29", "centre": False}


def sample(name: str) -> Image.Image:
    return Image.open(SAMPLES / name).convert("RGB").resize((320, 320))


def bright(picture: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(picture).enhance(factor)


def lying(picture: Image.Image) -> tuple[Image.Image, Image.Exif]:
    """Turned by 90 degrees, and an EXIF entry that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture.transpose(Image.Transpose.ROTATE_90), exif


def take_photos(folder: Path) -> None:
    """Eight usable photographs of three people, and what else lies in such folders."""
    collins, hopper = sample("collins.png"), sample("hopper.jpg")
    for person in ("collins", "hopper", "mirrored", "nobody"):
        (folder / person).mkdir(parents=True)
    collins.save(folder / "collins" / "1.png")
    bright(collins, 0.8).save(folder / "collins" / "2.jpg")
    bright(collins, 1.2).save(folder / "collins" / "3.webp")
    hopper.save(folder / "hopper" / "1.png")
    bright(hopper, 0.7).save(folder / "hopper" / "2.bmp")
    turned, exif = lying(hopper)
    turned.save(folder / "hopper" / "3.png", exif=exif)
    ImageOps.grayscale(hopper).save(folder / "hopper" / "4.png")
    ImageOps.mirror(collins).save(folder / "mirrored" / "1.png")
    (folder / "hopper" / "broken.jpg").write_bytes((folder / "collins/2.jpg").read_bytes()[:900])
    collins.resize((120, 120)).save(folder / "collins" / "tiny.png")
    Image.effect_noise((200, 200), 40).save(folder / "nobody" / "noise.png")
    (folder / "nobody" / ".hidden").write_text("")
    (folder / "readme.txt").write_text("mine")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepare") / "photos"
    take_photos(folder)
    return folder


@pytest.fixture(scope="module")
def made(photos: Path) -> tuple[Path, PrepareSummary]:
    dataset = photos.parent / "dataset"
    (summary,) = prepare(photos, dataset, size=SIZE, workers=1, license="CC0-1.0")
    return dataset, summary


@pytest.fixture
def dataset(made: tuple[Path, PrepareSummary], tmp_path: Path) -> Path:
    """A copy of the dataset, to change."""
    return shutil.copytree(made[0], tmp_path / "dataset")


@pytest.fixture
def album(photos: Path, tmp_path: Path) -> Path:
    """A copy of the photographs, to change."""
    return shutil.copytree(photos, tmp_path / "photos")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows(dataset: Path) -> dict[str, dict[str, str]]:
    with (dataset / "pictures.csv").open(newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


# -- what is made --------------------------------------------------------------------------------


def test_the_report_counts_what_was_used_and_names_what_was_not(
    made: tuple[Path, PrepareSummary],
) -> None:
    _, summary = made
    assert (summary.pictures, summary.crops, summary.people) == (11, 8, 3)
    assert (
        dict(summary.skipped)
        == {
            "collins/tiny.png": "face too small",
            "hopper/broken.jpg": "unreadable",
            "nobody/noise.png": "no face",
        }
        or summary.skipped["collins/tiny.png"] == "no face"
    )
    assert summary.empty == ("nobody",)
    assert summary.single == ("mirrored",)
    assert summary.beside == ("readme.txt",)
    assert (summary.detected, summary.embedded) == (11, 8)
    assert summary.images_per_second > 0
    assert 0 < summary.decoding < 1


def test_the_dataset_knows_everything_that_training_asks_for(
    made: tuple[Path, PrepareSummary],
) -> None:
    dataset, _ = made
    crops = CropSet.load(dataset)
    assert crops.images[:].shape == (8, 3, SIZE, SIZE)
    assert crops.mesh is not None
    assert crops.mesh.shape == (8, 478, 2)
    assert crops.info["people"] == ["collins", "hopper", "mirrored"]
    assert torch.bincount(crops.people).tolist() == [3, 4, 1]
    assert crops.info["skipped"]["unreadable"] == 1
    assert crops.info["license"] == "CC0-1.0"
    assert crops.info["alignment"] == {"template": "simswap_frontal", "size": SIZE}
    iris = crops.mesh[:, [468, 473]]
    expected = torch.tensor([[39.73, 51.138], [72.27, 51.138]]) * SIZE / 112
    assert (iris - expected).abs().max() < 2, "the eyes are where the template has them"


def test_the_vectors_are_those_of_the_crops_and_tell_people_apart(
    made: tuple[Path, PrepareSummary],
) -> None:
    crops = CropSet.load(made[0])
    encoder = load_encoder("dlib-resnet29")
    images = crops.images[:].float() / 255
    for side, pictures in enumerate((images, images.flip(-1))):
        assert torch.allclose(crops.embeddings[:, side], encoder(pictures), atol=1e-4)
    collins, hopper = (crops.embeddings[crops.people == person, 0] for person in (0, 1))
    assert (collins @ collins.T).mean() > (collins @ hopper.T).mean() + 0.2


def test_the_list_of_pictures_says_what_became_of_each(made: tuple[Path, PrepareSummary]) -> None:
    found = rows(made[0])
    assert list(found) == sorted(found)
    assert len(found) == 11
    assert found["hopper/3.png"]["status"] == "used"
    assert found["hopper/broken.jpg"]["reason"] == "unreadable"
    assert len(found["hopper/broken.jpg"]["key"]) == 64


def test_nothing_of_this_machine_gets_into_the_files(
    made: tuple[Path, PrepareSummary], photos: Path
) -> None:
    place = str(photos.parent).encode()
    assert [name for name, data in content(made[0]).items() if place in data] == []


# -- the same bytes ------------------------------------------------------------------------------


def test_workers_and_the_order_of_files_change_no_byte(
    made: tuple[Path, PrepareSummary],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = facke_core.prepare.photos._entries  # file systems list folders in orders of their own
    monkeypatch.setattr(
        facke_core.prepare.photos, "_entries", lambda folder: list(entries(folder))[::-1]
    )
    prepare(photos, tmp_path / "again", size=SIZE, workers=2, license="CC0-1.0")
    assert content(tmp_path / "again") == content(made[0])


def test_a_second_run_computes_nothing_and_changes_no_byte(dataset: Path, photos: Path) -> None:
    before = content(dataset)
    (summary,) = prepare(photos, dataset)
    assert (summary.detected, summary.embedded, summary.crops) == (0, 0, 8)
    assert content(dataset) == before


def test_renaming_deleting_and_adding_compute_only_what_is_new(
    dataset: Path, album: Path, tmp_path: Path
) -> None:
    (album / "hopper").rename(album / "grace")
    (album / "collins" / "1.png").rename(album / "mirrored" / "2.png")
    (album / "grace" / "1.png").unlink()
    bright(sample("hopper.jpg"), 1.1).save(album / "grace" / "5.png")
    (summary,) = prepare(album, dataset, workers=1)
    assert (summary.detected, summary.embedded, summary.crops) == (1, 1, 8)
    crops = CropSet.load(dataset)
    assert crops.info["people"] == ["collins", "grace", "mirrored"]
    prepare(album, tmp_path / "fresh", size=SIZE, license="CC0-1.0", workers=2)
    assert content(dataset) == content(tmp_path / "fresh")


def test_the_command_that_a_refusal_names_computes_the_vectors_alone(
    dataset: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, encoder = content(dataset), load_encoder(RAW)
    with pytest.raises(DataError) as refused:
        check_encoder(CropSet.load(dataset), encoder, RAW, dataset)
    command = in_options(str(refused.value)).rpartition(": facke ")[2]
    command = command.replace("PHOTOS", str(photos))
    assert main([*shlex.split(command), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)["datasets"][0]
    assert (document["detected"], document["embedded"]) == (0, 8)
    crops = CropSet.load(dataset)
    check_encoder(crops, encoder, RAW, dataset)
    raw = encoder(crops.images[:].float() / 255)
    assert torch.allclose(crops.embeddings[:, 0], raw, atol=1e-4)
    changed = {name for name, data in content(dataset).items() if data != before[name]}
    assert changed == {"dataset.json", "identity.safetensors"}


def test_a_damaged_shard_is_made_again(dataset: Path, photos: Path) -> None:
    before = content(dataset)
    shard = min(dataset.glob("crops-*"))
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(DataError, match=r"prepare\(PHOTOS"):
        CropSet.load(dataset)
    (summary,) = prepare(photos, dataset, workers=1)
    assert 0 < summary.detected < 8
    assert content(dataset) == before


# -- interruptions -------------------------------------------------------------------------------


def start(*words: object) -> subprocess.Popen[str]:
    code = "from facke_cli.main import run; run()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "prepare", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_preparation_goes_on_and_ends_with_the_same_bytes(
    made: tuple[Path, PrepareSummary], photos: Path, tmp_path: Path
) -> None:
    dataset = tmp_path / "dataset"
    process = start(photos, dataset, "--size", SIZE, "--workers", 1, "--license", "CC0-1.0")
    while not list(dataset.glob(".unfinished/*.safetensors")) and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(DataError, match="was not finished"):
        CropSet.load(dataset)
    left = f"""if True:
        import os
        from pathlib import Path
        from facke_core._files import replacing
        with replacing(Path({str(dataset / "crops-0.safetensors")!r})) as part:
            part.write_bytes(b"half")
            os.kill(os.getpid(), 9)
    """
    assert subprocess.run([sys.executable, "-c", left], check=False).returncode == -9
    assert list(dataset.glob(".facke-*"))
    (summary,) = prepare(photos, dataset, size=SIZE, license="CC0-1.0", workers=1)
    assert summary.detected < 11
    assert content(dataset) == content(made[0])


def test_a_full_disk_keeps_finished_shards_and_says_so(
    made: tuple[Path, PrepareSummary], photos: Path, tmp_path: Path
) -> None:
    dataset = tmp_path / "dataset"
    limit = 4000  # fits any shard of one crop, but not the index
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from facke_cli.main import run; run()"
    )
    words = [photos, dataset, "--size", SIZE, "--workers", 1, "--license", "CC0-1.0"]
    done = subprocess.run(
        [sys.executable, "-c", code, "prepare", *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert "kept" in done.stderr
    assert "Traceback" not in done.stderr
    (summary,) = prepare(photos, dataset, size=SIZE, license="CC0-1.0", workers=1)
    assert summary.crops == 8
    assert content(dataset) == content(made[0])


def test_a_killed_worker_costs_no_picture(
    photos: Path, tmp_path: Path, made: tuple[Path, PrepareSummary]
) -> None:
    killed: list[int] = []

    def kill_the_worker(what: str, done: int, total: int) -> None:
        if what == "preparing" and done == 1 and not killed:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)
                killed.append(child.pid or 0)

    options: Any = {"size": SIZE, "workers": 1, "license": "CC0-1.0"}
    prepare(photos, tmp_path / "d", on_progress=kill_the_worker, **options)
    assert killed
    assert content(tmp_path / "d") == content(made[0])


def begin(*_: object) -> None:
    """A worker that needs nothing."""


def crash_on_some(job: Job) -> Done:
    if "crash" in job.path:
        os.kill(os.getpid(), signal.SIGABRT)
    return Done(None, job.path)


@pytest.mark.parametrize("place", [0, 3, 7])
def test_a_picture_that_ends_its_worker_is_named_and_left_out(place: int) -> None:
    jobs = [Job("crash.png" if n == place else f"{n}.png", b"") for n in range(8)]
    workers = Workers(2, (), start=begin, work=crash_on_some)

    def answered() -> list[Done]:
        at_hand = [(job, workers.submit(job)) for job in jobs[:4]]
        found = [workers.result(*one) for one in at_hand]
        return found + [workers.result(job, workers.submit(job)) for job in jobs[4:]]

    try:
        with pytest.warns(FackeWarning) as said:
            found = answered()
    finally:
        workers.close()
    assert [str(one.message).split()[4] for one in said] == ["crash.png"]
    assert found.pop(place) == Done(None, UNREADABLE, passing=True)
    assert [one.reason for one in found] == [f"{n}.png" for n in range(8) if n != place]


def never(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGABRT)


def test_workers_that_cannot_start_blame_no_picture() -> None:
    workers = Workers(1, (), start=never, work=crash_on_some)
    job = Job("a.png", b"")
    try:
        with pytest.raises(DataError, match="die as soon as they start"):
            workers.result(job, workers.submit(job))
    finally:
        workers.close()


def test_two_preparations_of_one_dataset_do_not_mix(tmp_path: Path) -> None:
    refused: list[str] = []
    photos = tmp_path / "photos"
    squares(photos, "a", "b")

    def another(what: str, done: int, total: int) -> None:
        if not refused:
            with pytest.raises(DataError) as error:
                prepare(photos, tmp_path / "d", size=SIZE, aligned=True)
            refused.append(str(error.value))

    prepare(photos, tmp_path / "d", size=SIZE, aligned=True, workers=1, on_progress=another)
    assert f"Another job of facke (process {os.getpid()}) is at work" in refused[0]


# -- odd photographs -----------------------------------------------------------------------------


def test_the_same_file_counts_once_and_for_one_person(dataset: Path, album: Path) -> None:
    shutil.copy(album / "hopper" / "1.png", album / "hopper" / "copy.png")
    shutil.copy(album / "collins" / "1.png", album / "mirrored" / "0.png")
    (summary,) = prepare(album, dataset)
    assert summary.crops == 8
    assert dict(summary.duplicates) == {"hopper/copy.png": "hopper/1.png"}
    assert dict(summary.shared) == {"mirrored/0.png": "collins/1.png"}
    assert rows(dataset)["mirrored/0.png"]["reason"] == "same file as collins/1.png, another person"


def squares(folder: Path, *people: str) -> None:
    """Pictures that need no detector."""
    for number, person in enumerate(people):
        (folder / person).mkdir(parents=True)
        Image.effect_noise((48, 48), 20 + number).convert("RGB").save(folder / person / "1.png")


def test_one_person_alone_is_worth_a_warning(tmp_path: Path) -> None:
    squares(tmp_path / "photos", "anna")
    with pytest.warns(FackeWarning, match="one person, anna"):
        prepare(tmp_path / "photos", tmp_path / "d", size=SIZE, aligned=True, workers=1)


def test_names_that_are_no_unicode_are_shown_escaped(tmp_path: Path) -> None:
    squares(tmp_path / "photos", "anna", "bert")
    os.rename(os.fsencode(tmp_path / "photos/anna"), os.fsencode(tmp_path / "photos") + b"/ann\xe4")
    prepare(tmp_path / "photos", tmp_path / "d", size=SIZE, aligned=True, workers=1)
    assert CropSet.load(tmp_path / "d").info["people"] == [r"ann\udce4", "bert"]
    assert rows(tmp_path / "d")[r"ann\udce4/1.png"]["status"] == "used"


def test_vggface2_hq_is_read_as_it_is(tmp_path: Path) -> None:
    photos, dataset = tmp_path / "photos", tmp_path / "d"
    squares(photos / "train" / "images", "n1", "n2", "n3")
    squares(photos / "test" / "images", "n8", "n9")
    Image.new("RGB", (48, 40)).save(photos / "train" / "images" / "n1" / "wide.png")
    train, test = prepare(photos, dataset, size=SIZE, template="ffhq", aligned=True, workers=2)
    assert (train.crops, test.crops) == (3, 2)
    assert dict(train.skipped) == {"train/images/n1/wide.png": "not square"}
    crops = CropSet.load(dataset)
    assert crops.info["split"] == "train"
    assert crops.mesh is None
    assert len(CropSet.load(dataset / "test")) == 2
    assert crops.keys is not None
    order = [bytes(key).hex() for key in crops.keys.numpy()]
    row = order.index(rows(dataset / "train")["train/images/n2/1.png"]["key"])
    picture = read_image(photos / "train/images/n2/1.png").image
    expected = (resize(picture[None], (SIZE, SIZE)) * 255).round().byte()
    assert torch.equal(crops.images[row : row + 1], expected)
    train, test = prepare(photos, dataset, workers=1)
    assert train.detected + test.detected + train.embedded == 0


def test_a_folder_of_images_may_lie_between(tmp_path: Path) -> None:
    squares(tmp_path / "photos" / "images", "anna", "bert")
    (summary,) = prepare(tmp_path / "photos", tmp_path / "d", size=SIZE, aligned=True, workers=1)
    assert summary.people == 2


def test_a_face_that_is_turned_away_is_left_out(shared: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos" / "anna").mkdir(parents=True)
    shutil.copytree(photos / "mirrored", tmp_path / "photos" / "mirrored")
    turned = shared / "facepack" / "faces224" / "sfhq_t2i_2_Face_Pose_r1c09" / "0.jpg"
    shutil.copy(turned, tmp_path / "photos" / "anna" / "1.jpg")
    with pytest.warns(FackeWarning, match="one person, mirrored"):
        (summary,) = prepare(tmp_path / "photos", tmp_path / "d", size=SIZE, workers=1)
    assert dict(summary.skipped) == {"anna/1.jpg": "face turned away"}


# -- stores and manifests ------------------------------------------------------------------------


def test_webdataset_shards_hold_the_same_crops_bit_by_bit(
    made: tuple[Path, PrepareSummary], dataset: Path, photos: Path
) -> None:
    (summary,) = prepare(photos, dataset, store="webdataset", workers=1)
    assert (summary.detected, summary.embedded) == (0, 0)
    tensors, tars = CropSet.load(made[0]), CropSet.load(dataset)
    assert not list(dataset.glob("crops-*.safetensors"))
    assert torch.equal(tars.images[:], tensors.images[:])
    assert tensors.mesh is not None
    assert tars.mesh is not None
    assert torch.equal(tars.mesh, tensors.mesh)
    before = content(dataset)
    (summary,) = prepare(photos, dataset)
    assert summary.detected == 0
    assert content(dataset) == before

    import webdataset

    urls = sorted(map(str, dataset.glob("crops-*.tar")))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    keys = tensors.keys
    assert keys is not None
    assert [one["__key__"] for one in samples] == [bytes(key).hex() for key in keys.numpy()]
    first = torch.from_numpy(samples[0]["png"].copy()).permute(2, 0, 1)
    assert torch.equal(first, tensors.images[:1][0])


def test_a_manifest_names_people_weights_and_sources(tmp_path: Path) -> None:
    squares(tmp_path / "photos", "a", "b", "c", "unused")
    manifest = tmp_path / "faces.csv"
    manifest.write_text(
        "\ufeffpath,identity,mono,source,licence\n"
        "a/1.png,anna,0,museum,CC0-1.0\nb/1.png,bert,1,museum,CC0-1.0\nc/1.png,anna,0,mine,\n"
        "gone/1.png,carl,0,,\n"
    )
    (summary,) = prepare(
        tmp_path / "photos",
        tmp_path / "d",
        size=SIZE,
        aligned=True,
        manifest=manifest,
        workers=1,
    )
    assert dict(summary.skipped) == {"gone/1.png": "unreadable"}
    assert summary.empty == ("carl",)
    crops = CropSet.load(tmp_path / "d")
    assert crops.info["sources"] == {"mine": 1, "museum CC0-1.0": 2}
    assert crops.info["people"] == ["anna", "bert"]
    assert crops.weights[crops.people == 0].tolist() == [3.0, 3.0]
    assert crops.weights[crops.people == 1].tolist() == [1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,identity\na,b\n", "no column 'path'"),
        ("path,identity\n../a.png,b\n", "line 2: ../a.png is not inside"),
        ("path,identity\na.png,\n", "must not be empty"),
        ("path,identity\na.png,b\na.png,c\n", "line 3: a.png was named before"),
        ("path,identity\n", "names no picture"),
    ],
)
def test_a_manifest_that_does_not_fit_is_explained(text: str, message: str, tmp_path: Path) -> None:
    squares(tmp_path / "photos", "a")
    (tmp_path / "faces.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "photos", tmp_path / "d", manifest=tmp_path / "faces.csv")
    assert not (tmp_path / "d").exists()


# -- what is refused -----------------------------------------------------------------------------


def nothing(folder: Path) -> None:
    folder.mkdir()


def loose_pictures(folder: Path) -> None:
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "1.png")


def empty_people(folder: Path) -> None:
    (folder / "anna").mkdir(parents=True)


@pytest.mark.parametrize("fill", [nothing, loose_pictures, empty_people])
def test_photos_without_people_are_refused_with_the_layout(
    fill: Callable[[Path], None], tmp_path: Path
) -> None:
    fill(tmp_path / "photos")
    with pytest.raises(DataError, match="PHOTOS/PERSON"):
        prepare(tmp_path / "photos", tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_photos_of_which_none_can_be_used_leave_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "photos" / "anna").mkdir(parents=True)
    (tmp_path / "photos" / "anna" / "1.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"None of the 1 pictures .*unreadable 1.*anna/1.jpg"):
        prepare(tmp_path / "photos", tmp_path / "d", aligned=True, workers=1)
    assert not (tmp_path / "d").exists()


def test_a_folder_with_something_else_is_left_alone(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(DataError, match=r"thesis\.tex"):
        prepare(photos, tmp_path)
    with pytest.raises(DataError, match="among the photographs"):
        prepare(photos, photos / "dataset")
    with pytest.raises(UsageError, match="0 workers"):
        prepare(photos, tmp_path / "d", workers=0)


def test_crops_of_another_size_are_not_thrown_away(dataset: Path, photos: Path) -> None:
    before = content(dataset)
    with pytest.raises(DataError, match=r"size=32, .*size=64"):
        prepare(photos, dataset, size=64)
    assert content(dataset) == before


def test_a_dataset_of_an_earlier_version_is_made_again(tmp_path: Path) -> None:
    squares(tmp_path / "photos", "anna", "bert")
    dataset = tmp_path / "d"
    dataset.mkdir()
    (dataset / "crops.safetensors").write_bytes(b"old")
    old = {"alignment": {"template": "ffhq", "size": 24}}
    (dataset / "dataset.json").write_text(json.dumps(old))
    with pytest.raises(DataError, match=r"format 1.*prepare\(PHOTOS"):
        CropSet.load(dataset)
    prepare(tmp_path / "photos", dataset, aligned=True, workers=1)
    assert CropSet.load(dataset).info["alignment"] == old["alignment"]
    assert not (dataset / "crops.safetensors").exists()


# -- the command ---------------------------------------------------------------------------------


def test_the_command_prints_a_report_or_json(
    dataset: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", str(photos), str(dataset)]) == 0
    out, err = capsys.readouterr()
    assert "8 crops of 3 people from 11 pictures" in out
    assert "skipped, unreadable: 1 (hopper/broken.jpg)" in out
    assert "out of Identity Grouping: 1 (mirrored)" in out
    assert "vectors computed: 0, kept from before: 8" in out
    assert "preparing 11/11" in err
    assert main(["prepare", str(photos), str(dataset), "--json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    (document,) = json.loads(out)["datasets"]
    assert (document["crops"], document["kept"], document["empty"]) == (8, 8, ["nobody"])
    assert err == ""


def test_an_encoder_that_is_no_json_is_refused(photos: Path, tmp_path: Path) -> None:
    assert main(["prepare", str(photos), str(tmp_path / "d"), "--encoder", "{name"]) == 2
