"""Disclosure travels with every file format and cannot be used against the reader."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

import pictures as made
from facke_cli.main import main
from facke_core.errors import ImageError
from facke_core.images.io import write_image
from facke_core.images.provenance import (
    SOURCE_TYPE,
    disclosure,
    parse_packet,
    read_disclosure,
    source_type,
)
from facke_core.types import SwapRequest

REQUEST = SwapRequest(method="simswap", weights='Zoë & <"co">', revision="0" * 40, seed=7)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.avif", "a.tif"])
def test_every_format_carries_the_disclosure(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / name, torch.rand(3, 16, 16), xmp=disclosure(REQUEST))
    said = read_disclosure(tmp_path / name)
    assert said.pop("software").startswith("facke ")
    assert said == {
        "digital_source_type": SOURCE_TYPE,
        "method": "simswap",
        "weights": 'Zoë & <"co">',
        "revision": "0" * 40,
        "seed": "7",
    }


def test_a_missing_seed_is_empty() -> None:
    request = SwapRequest(method="m", weights="w", revision="", seed=None)
    assert parse_packet(disclosure(request))["seed"] == ""


def test_the_packet_is_made_of_standard_names() -> None:
    text = disclosure(REQUEST).decode()
    assert "Iptc4xmpExt:DigitalSourceType" in text
    assert text.startswith("<?xpacket begin=")
    assert 'end="w"?>' in text


def test_other_writers_forms_are_understood() -> None:
    for inner in (
        f"<Iptc4xmpExt:DigitalSourceType>{SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>",
        f'<Iptc4xmpExt:DigitalSourceType rdf:resource="{SOURCE_TYPE}"/>',
    ):
        packet = (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/" '
            'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
            'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"><rdf:RDF>'
            f'<rdf:Description rdf:about="">{inner}</rdf:Description></rdf:RDF></x:xmpmeta>'
        )
        assert parse_packet(packet.encode()) == {"digital_source_type": SOURCE_TYPE}


def test_a_picture_without_metadata_says_nothing(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.tif"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
        assert read_disclosure(tmp_path / name) == {}


def test_broken_metadata_is_an_explained_error(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", torch.zeros(3, 4, 4), xmp=b"<x:xmpmeta><oops")
    with pytest.raises(ImageError, match="XMP metadata cannot be read"):
        read_disclosure(tmp_path / "a.png")


def test_entities_are_never_expanded(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><x>&b;</x>'
    write_image(tmp_path / "a.jpg", torch.zeros(3, 4, 4), xmp=bomb.encode())
    with pytest.raises(ImageError, match="declares a document type"):
        read_disclosure(tmp_path / "a.jpg")


def test_a_file_that_is_no_picture_is_an_image_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ImageError, match="is not an image"):
        read_disclosure(tmp_path / "a.png")


# Other writers


def packet(term: str, form: str = "{0}") -> bytes:
    value = form.format(term)
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
        f'<rdf:Description rdf:about="" Iptc4xmpExt:DigitalSourceType="{value}"/></rdf:RDF>'
        "</x:xmpmeta>"
    ).encode()


def png_text(text: bytes, *, packed: bool = False) -> bytes:
    text = zlib.compress(text) if packed else text
    return made.chunk(b"iTXt", b"XML:com.adobe.xmp\0" + bytes([packed]) + b"\0\0\0" + text)


PICTURE = Image.fromarray(made.smooth())
URI = "http://cv.iptc.org/newscodes/digitalsourcetype/{0}"
AI = packet("trainedAlgorithmicMedia", URI)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_xmp_of_a_png_is_found_before_and_after_the_pixels(
    tmp_path: Path, last: bool, packed: bool
) -> None:
    png = made.with_chunks(made.encoded(PICTURE, "PNG"), png_text(AI, packed=packed), last=last)
    (tmp_path / "a.png").write_bytes(png)
    said = read_disclosure(tmp_path / "a.png")
    assert said == {"digital_source_type": URI.format("trainedAlgorithmicMedia")}


def test_every_packet_is_read_and_the_most_synthetic_type_is_named(tmp_path: Path) -> None:
    own, photo = disclosure(REQUEST), packet("digitalCapture", URI)
    xmp = b"http://ns.adobe.com/xap/1.0/\0"
    jpeg = made.encoded(PICTURE, "JPEG")
    png = made.encoded(PICTURE, "PNG")
    for first, second in ((own, photo), (photo, own), (b"<broken", own), (own, b"<broken")):
        (tmp_path / "a.jpg").write_bytes(made.with_segments(jpeg, xmp + first, xmp + second))
        inside = made.with_chunks(png, png_text(first))
        (tmp_path / "a.png").write_bytes(made.with_chunks(inside, png_text(second), last=True))
        for name in ("a.jpg", "a.png"):
            said = read_disclosure(tmp_path / name)
            assert said["digital_source_type"] == SOURCE_TYPE
            assert said["method"] == "simswap"
            both = b"<broken" not in (first, second)
            assert said.get("digital_source_types", "").endswith("digitalCapture") == both


def test_an_extended_packet_of_a_jpeg_is_put_together(tmp_path: Path) -> None:
    long = AI + b" " * 100_000
    parts = [(at, long[at : at + 40_000]) for at in range(0, len(long), 40_000)]
    more = b"http://ns.adobe.com/xmp/extension/\0" + b"A" * 32
    segments = [
        more + struct.pack(">II", len(long), at) + content for at, content in reversed(parts)
    ]
    (tmp_path / "a.jpg").write_bytes(made.with_segments(made.encoded(PICTURE, "JPEG"), *segments))
    assert read_disclosure(tmp_path / "a.jpg")["digital_source_type"].endswith("AlgorithmicMedia")


@pytest.mark.parametrize(
    ("term", "synthetic"),
    [
        ("trainedAlgorithmicMedia", True),
        ("compositeWithTrainedAlgorithmicMedia", True),
        ("compositeSynthetic", True),
        ("algorithmicMedia", True),
        ("algorithmicallyEnhanced", False),
        ("dataDrivenMedia", False),
        ("virtualRecording", False),
        ("composite", False),
        ("compositeCapture", False),
        ("digitalCreation", False),
        ("digitalArt", False),
        ("softwareImage", False),
        ("screenCapture", False),
        ("humanEdits", False),
        ("minorHumanEdits", False),
        ("computationalCapture", False),
        ("digitalCapture", False),
        ("negativeFilm", False),
        ("positiveFilm", False),
        ("print", False),
    ],
)
def test_each_term_of_the_vocabulary_has_a_meaning(term: str, synthetic: bool) -> None:
    forms = ("{0}", URI, URI + "/", URI.replace("http", "https"), "digsrctype:{0}")
    kinds = {
        source_type(form.format(spelled)) for form in forms for spelled in (term, term.upper())
    }
    (kind,) = kinds
    assert kind is not None
    assert (kind.term, kind.synthetic) == (term, synthetic)
    assert kind.meaning.endswith(".")


def test_terms_that_are_none_mean_nothing() -> None:
    assert (
        source_type("") is source_type("notAlgorithmicMedia") is source_type("http://x/y") is None
    )


def test_lists_of_types_and_old_names_are_understood() -> None:
    items = "".join(
        f"<rdf:li>{URI.format(term)}</rdf:li>" for term in ("digitalCapture", "compositeSynthetic")
    )
    for name in ("DigitalSourceType", "DigitalSourcefileType"):
        text = (
            packet("x")
            .decode()
            .replace(
                ' Iptc4xmpExt:DigitalSourceType="x"/>',
                f"><Iptc4xmpExt:{name}><rdf:Bag>{items}</rdf:Bag></Iptc4xmpExt:{name}>"
                "</rdf:Description>",
            )
        )
        said = parse_packet(text.encode())
        assert said["digital_source_type"] == URI.format("compositeSynthetic")


@pytest.mark.parametrize("seed", ["--5", "9" * 5000, "²"])
def test_a_seed_that_is_no_number_is_told_as_none(
    seed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packet = disclosure(REQUEST).replace(b'seed="7"', f'seed="{seed}"'.encode())
    write_image(tmp_path / "a.png", torch.rand(3, 16, 16), xmp=packet)
    assert main(["inspect", "--json", str(tmp_path / "a.png")]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] is None
