"""Results say that they are synthetic: an XMP packet with the IPTC's digital source type.

Besides the source type the packet names the method, the weights, their revision, the seed and
the software in the namespace :data:`NAMESPACE`. Crops and tensors of the API carry nothing.
Metadata is disclosure, not protection: whoever wants can remove it.
"""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

from facke_core._version import __version__
from facke_core.errors import ImageError

if TYPE_CHECKING:
    from facke_core.types import SwapRequest

__all__ = ["disclosure", "read_disclosure", "source_type"]

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""The IPTC's digital source type of a result."""
NAMESPACE = "urn:facke:result:1"
"""XML namespace of facke's own attributes."""
FIELDS = ("software", "method", "weights", "revision", "seed")
"""Attributes of :data:`NAMESPACE`, all text; ``seed`` is empty where none was given."""


class SourceType(NamedTuple):
    """The meaning of a term of the IPTC's vocabulary of digital source types."""

    term: str
    """The term as the vocabulary spells it."""
    synthetic: bool
    """True where it says that the picture, or a part of it, was made by a machine."""
    meaning: str
    """A sentence for people."""


# https://cv.iptc.org/newscodes/digitalsourcetype/ of September 2024, retired terms included; the
# most synthetic first, which is the one to name of several
_SOURCE_TYPES = (
    SourceType("trainedAlgorithmicMedia", True, "A generative model made all of it."),
    SourceType(
        "compositeWithTrainedAlgorithmicMedia", True, "A generative model changed or added parts."
    ),
    SourceType("compositeSynthetic", True, "It is a composite with at least one synthetic part."),
    SourceType(
        "algorithmicMedia", True, "An algorithm made all of it, without having been trained."
    ),
    SourceType(
        "virtualRecording", False, "It records a virtual event, parts of which may be synthetic."
    ),
    SourceType("dataDrivenMedia", False, "A program drew it from data."),
    SourceType("algorithmicallyEnhanced", False, "An algorithm altered it, but not what it shows."),
    SourceType("composite", False, "People put it together from several parts."),
    SourceType("compositeCapture", False, "It is a composite of several captures of real life."),
    SourceType("digitalCreation", False, "A person made it with a computer."),
    SourceType("digitalArt", False, "A person made it with a computer."),
    SourceType("softwareImage", False, "A program made it."),
    SourceType("screenCapture", False, "It shows a screen."),
    SourceType("humanEdits", False, "People edited it without a generative tool."),
    SourceType("minorHumanEdits", False, "People edited details of it."),
    SourceType("computationalCapture", False, "A camera merged it from several captures."),
    SourceType("digitalCapture", False, "A digital camera captured it."),
    SourceType("negativeFilm", False, "It was digitised from a negative."),
    SourceType("positiveFilm", False, "It was digitised from a slide."),
    SourceType("print", False, "It was digitised from a print."),
)
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_XMP = "http://ns.adobe.com/xap/1.0/"
_PREFIXES = {"x": "adobe:ns:meta/", "rdf": _RDF, "Iptc4xmpExt": _IPTC, "xmp": _XMP}
_TYPE_TAGS = (f"{{{_IPTC}}}DigitalSourceType", f"{{{_IPTC}}}DigitalSourcefileType")
"""The property's name, and that of its first version."""
_MAX_BYTES, _MAX_DEPTH = 4_000_000, 64


def disclosure(request: SwapRequest) -> bytes:
    """The XMP packet of a result, UTF-8."""
    for prefix, uri in {**_PREFIXES, "facke": NAMESPACE}.items():
        ElementTree.register_namespace(prefix, uri)
    software = f"facke {__version__}"
    values = {
        "software": software,
        "method": request.method,
        "weights": request.weights,
        "revision": request.revision,
        "seed": "" if request.seed is None else str(request.seed),
    }
    root = ElementTree.Element(f"{{{_PREFIXES['x']}}}xmpmeta")
    rdf = ElementTree.SubElement(root, f"{{{_RDF}}}RDF")
    attributes = {
        f"{{{_RDF}}}about": "",
        f"{{{_IPTC}}}DigitalSourceType": SOURCE_TYPE,
        f"{{{_XMP}}}CreatorTool": software,
        **{f"{{{NAMESPACE}}}{key}": values[key] for key in FIELDS},
    }
    ElementTree.SubElement(rdf, f"{{{_RDF}}}Description", attributes)
    body = ElementTree.tostring(root, encoding="unicode")
    begin = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    return f'{begin}\n{body}\n<?xpacket end="w"?>'.encode()


def source_type(value: str) -> SourceType | None:
    """Look a digital source type up, by its URI, its QCode or the term alone; None if unknown."""
    term = value.strip().rstrip("/").replace(":", "/").rpartition("/")[2].casefold()
    return next((kind for kind in _SOURCE_TYPES if kind.term.casefold() == term), None)


def read_disclosure(path: str | PathLike[str]) -> dict[str, str]:
    """Read the disclosure that a picture carries, in whichever of its XMP packets.

    Returns:
        Name -> text: ``digital_source_type`` and those of :data:`FIELDS` that are present. Of
        several source types it is the most synthetic one, and ``digital_source_types`` holds all.
        Empty where the file carries no XMP.

    Raises:
        ImageError: not a readable image, or all of its XMP is broken or unsafe.
    """
    from facke_core.images.files import check_input, explaining
    from facke_core.images.metadata import xmp_packets

    check_input(path)
    with explaining(os.fspath(path)):
        packets = xmp_packets(Path(path))
    parsed: list[dict[str, str]] = []
    broken: Exception | None = None
    for packet in packets:
        try:
            parsed.append(parse_packet(packet))
        except (ValueError, LookupError, ElementTree.ParseError, expat.ExpatError) as error:
            broken = broken or error
    if broken is not None and not any(parsed):
        raise ImageError(
            f"{path}: its XMP metadata cannot be read ({broken}). "
            "The picture itself may be fine; nothing can be said about its origin."
        ) from broken
    return _merged(parsed)


def _merged(parsed: list[dict[str, str]]) -> dict[str, str]:
    """What several packets say together; the first one decides, but for the source type."""
    said = {key: value for packet in reversed(parsed) for key, value in packet.items()}
    several = "digital_source_types"
    types = [
        value
        for packet in parsed
        for value in packet.get(several, packet.get("digital_source_type", "")).split()
    ]
    types = sorted(dict.fromkeys(types), key=_rank)
    said.pop(several, None)
    if types:
        said["digital_source_type"] = types[0]
    return said | ({several: " ".join(types)} if len(types) > 1 else {})


def _rank(value: str) -> int:
    kind = source_type(value)
    return len(_SOURCE_TYPES) if kind is None else _SOURCE_TYPES.index(kind)


def parse_packet(packet: bytes) -> dict[str, str]:
    """The disclosure in an XMP packet, as :func:`read_disclosure` returns it.

    Document types, and with them entities, are refused.

    Raises:
        ValueError: larger than 4 MB, with a document type, or nested beyond measure.
        LookupError: in an unknown encoding.
        xml.etree.ElementTree.ParseError: not well-formed.
    """
    if len(packet) > _MAX_BYTES:
        raise ValueError(f"{len(packet)} bytes are more than XMP ever needs")
    parser = ElementTree.XMLParser()
    _refuse_unsafe(packet)
    parser.feed(packet.strip(b"\0 \r\n\t"))
    root = parser.close()
    disclosed: dict[str, str] = {}
    types: list[str] = []
    wanted: dict[str, str] = dict.fromkeys(_TYPE_TAGS, "digital_source_type")
    wanted |= {f"{{{NAMESPACE}}}{key}": key for key in FIELDS}
    resource = f"{{{_RDF}}}resource"
    for element in root.iter():
        said = [(name, value) for name, value in element.attrib.items() if name in wanted]
        if element.tag in wanted:
            inside = [
                part.get(resource) or (part.text or "").strip()
                for part in element.iter()  # a property, or a list of them
            ]
            said += [(element.tag, value) for value in inside if value]
        for name, value in said:
            if name in _TYPE_TAGS:
                types.append("".join(value.split()))
            disclosed[wanted[name]] = value
    if not types:
        return disclosed
    return _merged([disclosed, *({"digital_source_type": value} for value in types)])


def _refuse_unsafe(packet: bytes) -> None:
    """Entities, and so entity expansion, can only be declared in a document type. What is nested
    without end is refused, too: it is walked through once per level."""

    def refuse(*_: object) -> None:
        raise ValueError("it declares a document type, which XMP never does")

    depth = 0

    def begin(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError(f"it is nested more deeply than {_MAX_DEPTH} levels")

    def end(*_: object) -> None:
        nonlocal depth
        depth -= 1

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.Parse(packet.strip(b"\0 \r\n\t"), True)
