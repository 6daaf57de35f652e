"""A reader of OpenVINO's intermediate representation (IR), without OpenVINO.

A network is two files: XML with layers and edges between their ports, and the numbers of all
constants one after the other. Versions 10 and 11 are read, with constants in float32. Code: written
for facke from docs.openvino.ai, "OpenVINO IR format".

Nothing in a file is believed: entities are refused, numbers are bounded, offsets lie within the
file of constants, and every size that is written is compared with the one that is computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
import torch
from torch import Tensor

from facke_core.errors import VerificationError
from facke_core.identity.operations import Operation, OperationNetwork

__all__: list[str] = []

VERSIONS = ("10", "11")
OPSET = "opset1"
"""Set of operations whose meaning :mod:`~facke_core.identity.operations` knows."""
MAX_XML = 4 * 2**20
"""Most bytes of a description; that of a network of 477 layers has 226 kB."""
MAX_LAYERS = 4096
MAX_DEPTH = 16
"""Most elements of the XML inside of each other."""


class Layer(NamedTuple):
    """A ``<layer>`` of the XML."""

    operation: str
    data: Mapping[str, str]
    inputs: tuple[str, ...]
    """Numbers of its input ports, in order."""
    outputs: Mapping[str, tuple[int, ...]]
    """Number of an output port -> the size of what comes out of it."""


def read_ir(xml: bytes, numbers: bytes | bytearray, *, source: str) -> OperationNetwork:
    """Read a network.

    Args:
        xml: the content of the ``.xml`` file.
        numbers: the content of the ``.bin`` file.
        source: what the file is called, for messages.

    Raises:
        VerificationError: it is damaged, of another version, or needs what facke does not compute.
    """
    try:
        return _network(_tree(xml), numbers, source)
    except _Damaged as error:
        raise VerificationError(
            f"{source} is no network that facke can read: {error}. Get the file again."
        ) from error


class _Damaged(ValueError):
    """What is wrong with a file."""


def _tree(xml: bytes) -> Element:
    """Parse XML without declarations: no entities, nothing from elsewhere."""
    if len(xml) > MAX_XML:
        raise _Damaged(f"it has {len(xml)} bytes, and at most {MAX_XML} are read")
    builder, depth = TreeBuilder(), 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise _Damaged(f"more than {MAX_DEPTH} elements lie inside of each other")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(*_: object) -> None:
        raise _Damaged("it declares a document type, which no such file has")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(xml, True)
    except (expat.ExpatError, ValueError) as error:
        raise _Damaged(str(error)) from error
    return builder.close()


def _network(root: Element, numbers: bytes | bytearray, source: str) -> OperationNetwork:
    if root.tag != "net" or root.get("version") not in VERSIONS:
        raise _Damaged(
            f"it begins with <{root.tag} version={root.get('version')!r}>, and facke reads <net> "
            f"of versions {' and '.join(VERSIONS)}"
        )
    layers: dict[str, Layer] = {}
    for element in root.iterfind("layers/layer"):
        name = _attribute(element, "id")
        if name in layers:
            raise _Damaged(f"two layers have the number {name!r}")
        if len(layers) == MAX_LAYERS:
            raise _Damaged(f"it has more than {MAX_LAYERS} layers")
        layers[name] = _layer(element)
    sources = _sources(root, layers)
    constants: dict[str, Tensor] = {}
    operations: list[Operation] = []
    sizes: dict[str, tuple[int, ...]] = {}
    for name, layer in layers.items():
        if layer.operation == "Const":
            constants[name] = _constant(name, layer, numbers)
            continue
        try:
            inputs = tuple(sources[name, port] for port in layer.inputs)
        except KeyError as error:
            raise _Damaged(f"nothing comes into a port of layer {name!r}") from error
        settings = {} if layer.operation == "Parameter" else layer.data
        operations.append(Operation(layer.operation, name, inputs, settings))
        if layer.operation != "Result":
            (sizes[name],) = layer.outputs.values()
    return OperationNetwork(
        operations, constants, input_size=_input_size(layers), source=source, sizes=sizes
    )


def _layer(element: Element) -> Layer:
    kind, version = _attribute(element, "type"), element.get("version")
    if version != OPSET:
        raise _Damaged(f"a layer {kind!r} is of {version!r}, and facke knows {OPSET!r}")
    data = element.find("data")
    outputs = {_attribute(port, "id"): _size(port) for port in element.iterfind("output/port")}
    if len(outputs) != (kind != "Result"):
        raise _Damaged(f"a layer {kind!r} has {len(outputs)} outputs")
    return Layer(
        kind,
        {} if data is None else data.attrib,
        tuple(_attribute(port, "id") for port in element.iterfind("input/port")),
        outputs,
    )


def _sources(root: Element, layers: Mapping[str, Layer]) -> dict[tuple[str, str], str]:
    """Layer and its input port -> the layer whose output comes in."""
    sources: dict[tuple[str, str], str] = {}
    for edge in root.iterfind("edges/edge"):
        keys = ("from-layer", "from-port", "to-layer", "to-port")
        giver, out, taker, into = (_attribute(edge, key) for key in keys)
        if giver not in layers or out not in layers[giver].outputs:
            raise _Damaged(f"an edge begins at port {out!r} of layer {giver!r}, which is not there")
        if taker not in layers or into not in layers[taker].inputs:
            raise _Damaged(f"an edge ends at port {into!r} of layer {taker!r}, which is not there")
        if (taker, into) in sources:
            raise _Damaged(f"two edges end at port {into!r} of layer {taker!r}")
        sources[taker, into] = giver
    return sources


def _constant(name: str, layer: Layer, numbers: bytes | bytearray) -> Tensor:
    written = layer.data.get("element_type")
    if written != "f32":
        raise _Damaged(f"the constant {name!r} is of type {written!r}, and facke reads 'f32'")
    (size,) = layer.outputs.values()
    shape = tuple(_number(part) for part in layer.data.get("shape", "").split(",") if part.strip())
    offset, length = (_number(layer.data.get(key, "")) for key in ("offset", "size"))
    if shape != size or length != 4 * math.prod(shape):
        raise _Damaged(f"the constant {name!r} of shape {shape} does not have {length} bytes")
    if offset + length > len(numbers):
        raise _Damaged(
            f"the constant {name!r} ends at byte {offset + length} of {len(numbers)} bytes"
        )
    values = np.frombuffer(numbers, "<f4", math.prod(shape), offset).reshape(shape)
    if not np.isfinite(values).all():
        raise _Damaged(f"the constant {name!r} holds numbers that are not finite")
    return torch.from_numpy(values.astype(np.float32))


def _input_size(layers: Mapping[str, Layer]) -> tuple[int, int, int]:
    pictures = [layer for layer in layers.values() if layer.operation == "Parameter"]
    sizes = [size for layer in pictures for size in layer.outputs.values()]
    if len(sizes) != 1 or len(sizes[0]) != 4 or sizes[0][0] != 1:
        raise _Damaged("it does not take one picture of a fixed size")
    return sizes[0][1], sizes[0][2], sizes[0][3]


def _size(port: Element) -> tuple[int, ...]:
    return tuple(_number(dim.text or "") for dim in port.iterfind("dim"))


def _attribute(element: Element, name: str) -> str:
    if (value := element.get(name)) is None:
        raise _Damaged(f"a <{element.tag}> has no {name!r}")
    return value


def _number(text: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise _Damaged(f"{text[:40]!r} stands where a number belongs")
    return int(text)
