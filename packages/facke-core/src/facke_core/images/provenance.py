"""Results say that they are synthetic: an XMP packet with the IPTC's digital source type.

Besides the source type the packet names the method, the weights, their revision, the seed and
the software in the namespace :data:`NAMESPACE`. Crops and tensors of the API carry nothing.
Metadata is disclosure, not protection: whoever wants can remove it.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING
from xml.etree import ElementTree
from xml.parsers import expat

from facke_core._version import __version__
from facke_core.errors import ImageError

if TYPE_CHECKING:
    from facke_core.types import SwapRequest

__all__ = ["disclosure", "read_disclosure"]

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""The IPTC's digital source type of a result."""
NAMESPACE = "urn:facke:result:1"
"""XML namespace of facke's own attributes."""
FIELDS = ("software", "method", "weights", "revision", "seed")
"""Attributes of :data:`NAMESPACE`, all text; ``seed`` is empty where none was given."""

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_XMP = "http://ns.adobe.com/xap/1.0/"
_PREFIXES = {"x": "adobe:ns:meta/", "rdf": _RDF, "Iptc4xmpExt": _IPTC, "xmp": _XMP}
_MAX_BYTES = 4_000_000


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


def read_disclosure(path: str | PathLike[str]) -> dict[str, str]:
    """Read the disclosure that a picture carries.

    Returns:
        Name -> text: ``digital_source_type`` and those of :data:`FIELDS` that are present. Empty
        where the file carries no XMP.

    Raises:
        ImageError: not a readable image, or its XMP is broken or unsafe.
    """
    from facke_core.images.files import open_image

    with open_image(path) as picture:
        packet = next(
            (picture.info[key] for key in ("xmp", "XML:com.adobe.xmp") if picture.info.get(key)),
            None,
        )
        if packet is None and picture.format == "TIFF":
            packet = getattr(picture, "tag_v2", {}).get(700)
    if not packet:
        return {}
    data = packet.encode() if isinstance(packet, str) else bytes(packet)
    try:
        return parse_packet(data)
    except (ElementTree.ParseError, expat.ExpatError, ValueError) as error:
        raise ImageError(
            f"{path}: its XMP metadata cannot be read ({error}). "
            "The picture itself may be fine; nothing can be said about its origin."
        ) from error


def parse_packet(packet: bytes) -> dict[str, str]:
    """The disclosure in an XMP packet, as :func:`read_disclosure` returns it.

    Document types, and with them entities, are refused.

    Raises:
        ValueError: larger than 4 MB, or with a document type.
        xml.etree.ElementTree.ParseError: not well-formed.
    """
    if len(packet) > _MAX_BYTES:
        raise ValueError(f"{len(packet)} bytes are more than XMP ever needs")
    parser = ElementTree.XMLParser()
    _refuse_doctype(packet)
    parser.feed(packet.strip(b"\0 \r\n\t"))
    root = parser.close()
    disclosed: dict[str, str] = {}
    wanted = {f"{{{_IPTC}}}DigitalSourceType": "digital_source_type"}
    wanted |= {f"{{{NAMESPACE}}}{key}": key for key in FIELDS}
    resource = f"{{{_RDF}}}resource"
    for element in root.iter():
        for name, value in element.attrib.items():
            if name in wanted:
                disclosed[wanted[name]] = value
        if element.tag in wanted:
            disclosed[wanted[element.tag]] = element.get(resource) or (element.text or "").strip()
    return disclosed


def _refuse_doctype(packet: bytes) -> None:
    """Entities, and so entity expansion, can only be declared in a document type."""

    def refuse(*_: object) -> None:
        raise ValueError("it declares a document type, which XMP never does")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(packet.strip(b"\0 \r\n\t"), True)
