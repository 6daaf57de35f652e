"""Disclosure travels with every file format and cannot be used against the reader."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from facke_core.errors import ImageError
from facke_core.images.io import write_image
from facke_core.images.provenance import SOURCE_TYPE, disclosure, parse_packet, read_disclosure
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
