"""The judge that anybody can fetch: from its publisher, once, checked, and never by itself."""

from __future__ import annotations

import csv
import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from irs import judge_ir

from facke_core.building import load_encoder
from facke_core.errors import UnavailableError, UsageError, VerificationError
from facke_core.evaluation.judges import Recogniser, check_judge
from facke_core.faces.templates import Alignment, template_points
from facke_core.identity import reid_0095
from facke_core.images.io import read_image
from facke_core.loading import load
from facke_core.plugins.registry import default_registry

ROOT = Path(__file__).resolve().parents[2]
XML, BIN = reid_0095.FILES


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the files are kept; empty."""
    monkeypatch.setenv("FACKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "reid-0095"


@pytest.fixture
def published(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the judge's files as a publisher would have them, whose digests are pinned."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    folder = tmp_path / "published"
    folder.mkdir()
    files = dict(zip((XML, BIN), judge_ir(), strict=True))
    for name, content in files.items():
        (folder / name).write_bytes(content)
    pins = {name: (len(x), hashlib.sha256(x).hexdigest()) for name, x in files.items()}
    monkeypatch.setattr(reid_0095, "FILES", pins)
    return folder


@pytest.fixture
def publisher(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, list[str]]]:
    """(its folder, what was asked for): a server with these files, whose address is taken."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            with suppress(ConnectionError):  # who asks reads no more than belongs there
                super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(published)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(reid_0095, "ADDRESS", f"http://127.0.0.1:{server.server_port}/")
    yield published, asked
    server.shutdown()
    server.server_close()


def test_the_pins_are_those_of_the_model_zoo() -> None:
    """Sizes of the file and of what it describes: 1,106,814 numbers of four bytes."""
    assert reid_0095.FILES[BIN][0] == 4 * 1_106_814
    assert all(len(digest) == 64 for _, digest in reid_0095.FILES.values())
    assert reid_0095.ADDRESS.startswith("https://download.01.org/opencv/2019/open_model_zoo/R4/")


def test_nothing_is_fetched_until_somebody_asks(
    kept: Path, publisher: tuple[Path, list[str]]
) -> None:
    with pytest.raises(UnavailableError, match="were not fetched yet") as error:
        load_encoder("reid-0095")
    assert reid_0095.COMMAND in str(error.value)
    with pytest.raises(UnavailableError, match="run once: python -c"):
        reid_0095.build()
    assert publisher[1] == []


def test_it_is_fetched_once_and_then_works_alone(
    kept: Path, publisher: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reid_0095.fetch() == kept
    assert publisher[1] == [f"/{XML}", f"/{BIN}"]
    reid_0095.fetch()
    assert len(publisher[1]) == 2
    monkeypatch.setattr(reid_0095, "urlopen", None)
    encoder = load_encoder("reid-0095")
    assert isinstance(encoder, reid_0095.Reid0095)
    assert encoder.spec.license == "Apache-2.0"
    vector = encoder(torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)))
    assert vector.shape == (2, 256)
    assert vector.norm(dim=1) == pytest.approx(1)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_a_file_that_the_publisher_changed_is_not_kept(
    kept: Path, publisher: tuple[Path, list[str]]
) -> None:
    for content, told in ((b"short", "has 5 bytes"), (bytes(6_000_000), "has more than")):
        (publisher[0] / BIN).write_bytes(content)
        with pytest.raises(VerificationError, match=told):
            reid_0095.fetch()
        assert not (kept / BIN).exists()
    (publisher[0] / BIN).unlink()
    with pytest.raises(UnavailableError, match="HTTP Error 404"):
        reid_0095.fetch()


def test_what_was_damaged_since_is_refused_and_fetched_anew(
    kept: Path, publisher: tuple[Path, list[str]]
) -> None:
    reid_0095.fetch()
    content = bytearray((kept / BIN).read_bytes())
    content[100] ^= 1
    (kept / BIN).write_bytes(content)
    with pytest.raises(VerificationError, match="it is damaged or another file"):
        load_encoder("reid-0095")
    assert len(publisher[1]) == 2
    reid_0095.fetch()
    assert publisher[1][2:] == [f"/{BIN}"]
    load_encoder("reid-0095")


def test_files_that_were_copied_by_hand_are_as_good(kept: Path, published: Path) -> None:
    kept.mkdir(parents=True)
    for name in (XML, BIN):
        (kept / name).write_bytes((published / name).read_bytes())
    load_encoder("reid-0095")


def test_without_a_network_it_says_what_to_do(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(reid_0095, "ADDRESS", f"http://127.0.0.1:{free.getsockname()[1]}/")
        with pytest.raises(UnavailableError, match="cannot be downloaded") as error:
            reid_0095.fetch()
    assert f"copy the file from elsewhere to {kept / XML}" in str(error.value)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(reid_0095, "ADDRESS", f"http://127.0.0.1:{server.getsockname()[1]}/")

        def answer() -> None:
            connection, _ = server.accept()
            connection.recv(1000)
            connection.sendall(b"nonsense\r\n\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(UnavailableError, match="cannot be downloaded: nonsense"):
            reid_0095.fetch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnavailableError, match="HF_HUB_OFFLINE is set"):
        reid_0095.fetch()


def test_a_cache_that_cannot_be_written_is_told(
    publisher: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("FACKE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UnavailableError, match="cannot be kept"):
        reid_0095.fetch()


def test_vectors_are_those_of_the_judges_on_real_faces(
    shared: Path, kept: Path, publisher: tuple[Path, list[str]]
) -> None:
    """From the landmarks of facke's detector; on photographs of 250 px, where nothing shrinks by
    half, and so both sample alike."""
    pytest.importorskip("cv2", reason="the judges need OpenCV (extra: faces)")
    import reid

    from facke_core.building import make_detector

    reid_0095.fetch()
    judge = Recogniser(encoder=load_encoder("reid-0095"), settings={"name": "reid-0095"})
    module = reid._judges()
    judges, detector = module.Judges(), make_detector("mediapipe")
    with (shared / "faces" / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["group"] == "lfw10"]
    alignment = Alignment(template="arcface", size=112)
    compared = 0
    for row in rows[::10]:
        photo = read_image(shared / "faces" / row["path"]).image
        for face in detector(photo)[:1]:
            pixels, points = reid._pixels(photo), face.landmarks.double().numpy()
            theirs = torch.from_numpy(judges.embed("reid_0095", pixels, points))
            assert float(judge.of_photo(photo, face, alignment) @ theirs) > 1 - 1e-4
            template = template_points("sphereface_128", 128).numpy()
            chip = torch.from_numpy(module.crop(pixels, points, template, (128, 128)))
            same = judge.of_cut(chip.permute(2, 0, 1)[None].float() / 255)
            assert (same - theirs).abs().max() < 1e-4
            compared += 1
    assert compared >= 5


def test_who_trained_a_model_may_not_judge_it(
    kept: Path, publisher: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reid_0095.fetch()
    judge = Recogniser(encoder=load_encoder("reid-0095"), settings={"name": "reid-0095"})
    pipeline = load("simswap")
    check_judge(judge, pipeline, default_registry())
    monkeypatch.setattr(pipeline, "identity_encoder", load_encoder("reid-0095"))
    with pytest.raises(UsageError, match="'reid-0095' cannot judge"):
        check_judge(judge, pipeline, default_registry())
